//! A real Chromium without a window, driven by chromedriver over WebDriver (https://www.w3.org/TR/webdriver2/).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{self, Running};
use crate::scratch;

/// How long the browser may live.
const LIMIT: Duration = Duration::from_secs(600);
/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// One browser with one window; it goes when this is dropped.
pub struct Browser {
    agent: ureq::Agent,
    session: String,
    // Kills what it started when it is dropped.
    _driver: Running,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one.
    pub fn start() -> Self {
        let profile = scratch();
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("TMPDIR", profile.path());
        let mut driver = process::start(&mut command, LIMIT);
        // "ChromeDriver was started successfully on port 34567."
        let line = driver.wait_for_line("started successfully on port");
        let port = line.trim().trim_end_matches('.').rsplit(' ').next().unwrap_or_default().to_owned();
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
        let mut browser = Self {
            agent: config.into(),
            session: format!("http://127.0.0.1:{port}/session"),
            _driver: driver,
            _profile: profile,
        };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1280,900",
        ];
        let data = format!("--user-data-dir={}", browser._profile.path().join("profile").display());
        let arguments: Vec<&str> = arguments.into_iter().chain([data.as_str()]).collect();
        let session = browser.post(
            "",
            &json!({"capabilities": {"alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": {"args": arguments},
                "goog:loggingPrefs": {"browser": "ALL"},
            }}}),
        );
        let id = session["sessionId"].as_str().expect("a session's id").to_owned();
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    /// Loads a file and waits until it is loaded. `fragment`: nothing, or `#…`.
    pub fn open(&self, file: &Path, fragment: &str) {
        self.post("/url", &json!({"url": format!("file://{}{fragment}", file.display())}));
    }

    /// Loads a page from a server and waits until it is loaded.
    pub fn open_url(&self, url: &str) {
        self.post("/url", &json!({"url": url}));
    }

    /// Runs a script in the page; its `return` comes back.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// As [`Browser::run`], of a script that returns a text.
    pub fn text(&self, script: &str) -> String {
        let value = self.run(script);
        value.as_str().unwrap_or_else(|| panic!("no text from {script}: {value}")).to_owned()
    }

    /// As [`Browser::run`], of a script that returns a number.
    pub fn number(&self, script: &str) -> u64 {
        let value = self.run(script);
        value.as_u64().unwrap_or_else(|| panic!("no number from {script}: {value}"))
    }

    /// What the browser had to complain of since the last call: errors of scripts, violations of the page's policy.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["message"].as_str().unwrap_or("?").to_owned()).collect()
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        let url = format!("{}{command}", self.session);
        let sent = self.agent.post(&url).header("Content-Type", "application/json").send(body.to_string());
        let mut answer = sent.unwrap_or_else(|error| panic!("chromedriver does not answer {command:?}: {error}"));
        let text = answer.body_mut().read_to_string().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command:?}: {error}: {text}"));
        let value = &answer["value"];
        assert!(value["error"].is_null(), "{command:?}: {} {}", value["error"], value["message"]);
        value.clone()
    }
}
