//! The blocks of docs/production.md: units that systemd takes, YAML that is a pod, scripts that run.

use std::path::Path;
use std::process::Command;

use avleak_tests::avleak::LIMIT;
use avleak_tests::process::{self, Finished};
use avleak_tests::suite::tool;
use avleak_tests::{avleak_binary, avleak_library, programs, repository, scratch};
use serde_json::Value;

/// The block that follows `<!-- tested: NAME -->`, and its language.
fn block(name: &str) -> (String, String) {
    let text = std::fs::read_to_string(repository().join("docs/production.md")).expect("docs/production.md");
    let mark = format!("<!-- tested: {name} -->\n```");
    let (_, rest) = text.split_once(&mark).unwrap_or_else(|| panic!("docs/production.md has no block {name}"));
    let (language, rest) = rest.split_once('\n').expect("a block");
    let (body, _) = rest.split_once("\n```").expect("the end of the block");
    (language.to_owned(), format!("{body}\n"))
}

/// As it stands in the document, with avleak where this build has it.
fn unit(name: &str) -> String {
    let (language, text) = block(name);
    assert_eq!(language, "ini", "{name}");
    text.replace("/opt/avleak/bin/avleak", avleak_binary().to_str().expect("UTF-8"))
        .replace("/opt/avleak/lib/libavleak.so", avleak_library().to_str().expect("UTF-8"))
}

fn verify(folder: &Path, unit: &str) -> Finished {
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]).arg(folder.join(unit));
    process::run(command.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display())), LIMIT)
}

/// Whoever pastes them gets units without a complaint; and a wrong word in them is one.
#[test]
fn units_are_taken_by_systemd() {
    let folder = scratch();
    let server = format!("[Service]\nExecStart={}\n", programs::program("live_server").display());
    std::fs::write(folder.path().join("server.service"), server).expect("a unit");
    std::fs::create_dir(folder.path().join("server.service.d")).expect("a folder");
    let drop_in = folder.path().join("server.service.d/avleak.conf");
    std::fs::write(folder.path().join("avleak.service"), unit("server")).expect("a unit");
    for name in ["drop-in", "client"] {
        std::fs::write(&drop_in, unit(name)).expect("a drop-in");
        for unit in ["server.service", "avleak.service"] {
            let done = verify(folder.path(), unit);
            assert!(done.code() == 0 && done.stderr.is_empty(), "{name}, {unit}: {}", done.stderr);
        }
    }
    std::fs::write(&drop_in, unit("drop-in").replace("LogsDirectory", "LogsFolder")).expect("a drop-in");
    assert!(verify(folder.path(), "server.service").stderr.contains("LogsFolder"));
}

/// Every option and key that a block names is one of avleak's: it runs with them.
#[test]
fn the_units_commands_and_options_are_avleaks() {
    let folder = scratch();
    let words = |unit: &str, key: &str| -> Vec<String> {
        let unit = unit.replace("\\\n", "");
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key));
        lines.map(str::to_owned).collect()
    };
    let command = words(&unit("server"), "ExecStart=").remove(0);
    served(folder.path(), command.split_whitespace().skip(1).map(str::to_owned).collect());
    let options = words(&unit("drop-in"), "Environment=AVLEAK_OPTIONS=").remove(0);
    let here = options.replace("/var/log/avleak", &folder.path().display().to_string()).replace(":9464", ":0");
    let mut command = Command::new(programs::program("leak_batch"));
    command.arg("leak").env("LD_PRELOAD", avleak_library()).env("AVLEAK_ANALYZER", avleak_binary());
    command.env("AVLEAK_OPTIONS", here).env("AVLEAK_PATIENCE_MS", "20000").env("TMPDIR", folder.path());
    let done = process::start_marked(&mut command, LIMIT, folder.path().to_str().expect("UTF-8")).finish();
    assert!(!done.stderr.contains("AVLEAK_OPTIONS"), "{}", done.stderr);
    assert!(folder.path().join(format!("avleak.{}.json", done.pid)).exists(), "{}", done.stderr);
}

/// Starts `avleak` with these words of a document, in other places, and ends it.
fn served(folder: &Path, words: Vec<String>) {
    let token = folder.join("token");
    std::fs::write(&token, "a token that is long enough").expect("a token");
    let here = |word: String| {
        let word = word.replace("/run/avleak/socket", &folder.join("socket").display().to_string());
        let word = word.replace("/avleak/socket", &folder.join("socket").display().to_string());
        let word = word.replace("/var/log/avleak", &folder.display().to_string()).replace(":9464", ":0");
        let word = word.replace("=/reports", &format!("={}", folder.display()));
        word.replace("/token/token", &token.display().to_string())
    };
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(avleak_binary()).args(words.into_iter().map(here));
    let mut running = process::start(&mut command, LIMIT);
    running.wait_for_line("serving http://");
    running.wait_for_line("processes may register");
    running.signal(running.pid(), rustix::process::Signal::TERM);
    assert_eq!(running.finish().code(), 0);
}

fn yaml(name: &str) -> Value {
    let (language, text) = block(name);
    assert_eq!(language, "yaml");
    let folder = scratch();
    let file = folder.path().join("block.yml");
    std::fs::write(&file, text).expect("a file");
    let mut command = Command::new(tool("python3"));
    command.args(["-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"]);
    let done = process::run(command.arg(&file), LIMIT).expect_success();
    serde_json::from_str(&done.text()).expect("JSON of the block")
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// The volumes are there, both containers have the socket, and the commands do what they are to.
#[test]
fn the_pod_hangs_together() {
    let pod = yaml("pod");
    let spec = &pod["spec"];
    assert_eq!((&pod["kind"], &spec["shareProcessNamespace"]), (&"Pod".into(), &true.into()));
    let names = |list: &Value| -> Vec<String> {
        list.as_array().expect("a list").iter().map(|item| item["name"].as_str().expect("a name").into()).collect()
    };
    let volumes = names(&spec["volumes"]);
    let init = spec["initContainers"].as_array().expect("containers");
    let program = &spec["containers"][0];
    for container in init.iter().chain([program]) {
        for mount in container["volumeMounts"].as_array().expect("mounts") {
            assert!(volumes.contains(&mount["name"].as_str().expect("a name").into()), "{mount}");
        }
        assert!(
            container["volumeMounts"].as_array().is_some_and(|all| all.iter().any(|m| m["mountPath"] == "/avleak"))
        );
    }
    let environment = |name: &str| {
        let all = program["env"].as_array().expect("an environment");
        all.iter().find(|item| item["name"] == name).expect(name)["value"].as_str().expect("text").to_owned()
    };
    // The library is where the first container puts it, and the socket where the second one listens.
    assert_eq!(texts(&init[0]["command"]).last(), Some(&environment("LD_PRELOAD")));
    let command = texts(&init[1]["command"]);
    assert!(command.contains(&format!("--socket={}", environment("AVLEAK_SOCKET"))), "{command:?}");
    assert_eq!(
        (&init[1]["restartPolicy"], &init[1]["startupProbe"]["httpGet"]["path"]),
        (&"Always".into(), &"/healthz".into())
    );
    let port = pod["metadata"]["annotations"]["prometheus.io/port"].as_str().expect("a port");
    assert_eq!(init[1]["ports"][0]["containerPort"].to_string(), port);
    assert!(command.contains(&format!("--http=0.0.0.0:{port}")), "{command:?}");
    let folder = scratch();
    served(folder.path(), command[1..].iter().map(|word| word.replace("0.0.0.0", "127.0.0.1")).collect());
}

/// The image's files lie where avleak finds them, and its first process is one that reports.
#[test]
fn the_image_reports() {
    let (language, text) = block("dockerfile");
    assert_eq!(language, "dockerfile");
    let root = scratch();
    for copy in text.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let (from, to) = copy.split_once(' ').expect("from and to");
        let files = [avleak_binary(), avleak_library(), programs::program("leak_batch")];
        let file = if from == "server" { Some(&files[2]) } else { files.iter().find(|file| file.ends_with(from)) };
        let to = root.path().join(to.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("the folder");
        std::fs::copy(file.unwrap_or_else(|| panic!("{from} is not built")), to).expect("the copy");
    }
    std::fs::create_dir(root.path().join("reports")).expect("a folder");
    let words = |key: &str| -> Vec<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        let words: Vec<String> = serde_json::from_str(line.trim()).expect("a list of words");
        words
            .into_iter()
            .map(|word| if word.starts_with('/') { root.path().display().to_string() + &word } else { word })
            .collect()
    };
    let (entry, program) = (words("ENTRYPOINT"), words("CMD"));
    let mut command = Command::new(&entry[0]);
    command.args(&entry[1..]).args(program).arg("leak").env_remove("AVLEAK_LIB");
    let done = process::run(&mut command, LIMIT);
    assert_eq!(done.code(), 1, "{}", done.stderr);
    assert!(root.path().join("reports/avleak.json").exists(), "{}", done.stderr);
}

/// Docker itself is not here: its words are looked at, and what `-e` sets is what a bare preload wants.
#[test]
fn shell_blocks_are_sh() {
    for name in ["preload-in-docker", "tidy"] {
        let (language, text) = block(name);
        assert_eq!(language, "sh", "{name}");
        let folder = scratch();
        let script = folder.path().join("script");
        std::fs::write(&script, &text).expect("a script");
        process::run(Command::new("sh").arg("-n").arg(&script), LIMIT).expect_success();
    }
    let (_, docker) = block("preload-in-docker");
    for part in ["--init", "LD_PRELOAD=/opt/avleak/lib/libavleak.so", "AVLEAK_OPTIONS=report_dir=/reports"] {
        assert!(docker.contains(part), "{docker}");
    }
    let (_, tidy) = block("tidy");
    let folder = scratch();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(40 * 86_400);
    for (name, is_old) in [("avleak.7.json", true), ("avleak.8.json", false), ("avleak.alerts.ndjson", true)] {
        let file = std::fs::File::create(folder.path().join(name)).expect("a file");
        if is_old {
            file.set_modified(old).expect("its time");
        }
    }
    let here = tidy.replace("/var/log/avleak", &folder.path().display().to_string());
    process::run(Command::new("sh").args(["-c", &here]), LIMIT).expect_success();
    let left = |name: &str| folder.path().join(name).exists();
    assert_eq!(["avleak.7.json", "avleak.8.json", "avleak.alerts.ndjson"].map(left), [false, true, true]);
}

/// Rotated between two alerts: each line is in one of the files, whole.
#[test]
fn alerts_are_rotated() {
    let (_, text) = block("logrotate");
    let folder = scratch();
    let file = folder.path().join("avleak.alerts.ndjson");
    let config = folder.path().join("config");
    let here = text.replace("/var/log/avleak", &folder.path().display().to_string()).replace("compress", "nocompress");
    // A folder that others may write to is refused, unless it is said as whom.
    std::fs::write(&config, here).expect("the configuration");
    std::fs::write(&file, "{\"one\":1}\n").expect("an alert");
    let mut command = Command::new("logrotate");
    command.args(["--force", "--state"]).arg(folder.path().join("state")).arg(&config);
    process::run(&mut command, LIMIT).expect_success();
    assert!(!file.exists(), "nocreate: the next alert makes it anew");
    assert_eq!(
        std::fs::read_to_string(folder.path().join("avleak.alerts.ndjson.1")).expect("the old one"),
        "{\"one\":1}\n"
    );
}
