//! Reading reports back: what kind of document it is, whether this version can read it, and why not.

use super::errno;
use crate::report::model::{Report, RunReport, SCHEMA};
use crate::report::verdict::RUN_SCHEMA;
use serde::Deserialize;
use serde_json::error::Category;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Larger files are refused: a report of a million groups is far below this. Bytes.
const LARGEST: u64 = 1 << 30;

/// A document that avleak writes.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyReport {
    /// `avleak-report/1`: one process.
    Process(Box<Report>),
    /// `avleak-run/1`: a command and its processes.
    Run(Box<RunReport>),
}

impl AnyReport {
    /// The reports of processes in it, as they stand there.
    pub fn processes(&self) -> &[Report] {
        match self {
            Self::Process(report) => std::slice::from_ref(report),
            Self::Run(run) => &run.processes,
        }
    }
}

/// Why a file is no report that can be read. Each is one line that begins with the path.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the messages say")]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read report {}: {} ({})", .path.display(), errno::name(.source), read_remedy(.source))]
    Unreadable { path: PathBuf, source: io::Error },
    /// There is nothing in it.
    #[error("{}: the file is empty, not a report (was it written to a full disk or copied while it was made?)", .path.display())]
    Empty { path: PathBuf },
    /// More than a report can be.
    #[error("{}: larger than {LARGEST} bytes, not a report of avleak", .path.display())]
    TooLarge { path: PathBuf },
    /// JSON that ends early.
    #[error("{}:{line}:{column}: the report is truncated: {reason} (copy or download it again)", .path.display())]
    Truncated { path: PathBuf, line: usize, column: usize, reason: String },
    /// JSON with an error in it.
    #[error("{}:{line}:{column}: malformed JSON: {reason}", .path.display())]
    Malformed { path: PathBuf, line: usize, column: usize, reason: String },
    /// Something else.
    #[error("{}: not a report of avleak: {reason}", .path.display())]
    NotAReport { path: PathBuf, reason: String },
    /// A report of another major version.
    #[error("{}: schema {found} cannot be read by this avleak, which reads {supported} (use the avleak that wrote it, version {writer})", .path.display())]
    OtherMajor { path: PathBuf, found: String, supported: &'static str, writer: String },
    /// A report with a field missing or of the wrong type.
    #[error("{}:{line}:{column}: not a valid {schema} document: {reason}", .path.display())]
    Invalid { path: PathBuf, schema: String, line: usize, column: usize, reason: String },
}

fn read_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "check the name; a bare LD_PRELOAD writes avleak.PID.json",
        Some(libc::EACCES | libc::EPERM) => "this user may not read it",
        Some(libc::EISDIR) => "name a file, not a folder",
        _ => "name another file",
    }
}

/// The part that tells what a document is.
#[derive(Deserialize)]
struct Header {
    schema: Option<serde_json::Value>,
    avleak: Option<serde_json::Value>,
}

/// Reads a report of one process or of a run; `-` is stdin. Unknown fields are ignored: a later minor version may add some.
///
/// # Errors
/// See [`LoadError`].
pub fn load(path: &Path) -> Result<AnyReport, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    if bytes.len() as u64 > LARGEST {
        return Err(LoadError::TooLarge { path: path.to_path_buf() });
    }
    parse(path, &bytes)
}

/// As [`load`], from the file's content; `path` is for the messages.
///
/// # Errors
/// See [`LoadError`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<AnyReport, LoadError> {
    let path_buf = || path.to_path_buf();
    let not = |reason: String| LoadError::NotAReport { path: path_buf(), reason };
    match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        None => return Err(LoadError::Empty { path: path_buf() }),
        Some(b'{') => {}
        Some(b'[' | b'"' | b'0'..=b'9' | b'-') => return Err(not("it holds no JSON object".to_string())),
        Some(_) => return Err(not("it is not JSON".to_string())),
    }
    let header: Header = serde_json::from_slice(bytes).map_err(|error| syntax(path, bytes, &error))?;
    let Some(schema) = header.schema else {
        return Err(not("it has no field `schema`".to_string()));
    };
    let Some(schema) = schema.as_str() else {
        return Err(not("its field `schema` is no string".to_string()));
    };
    let writer = header.avleak.as_ref().and_then(|v| v.as_str()).unwrap_or("unknown").to_string();
    let invalid = |error: serde_json::Error| LoadError::Invalid {
        path: path_buf(),
        schema: schema.to_string(),
        line: error.line(),
        column: error.column(),
        reason: reason(&error),
    };
    if schema == SCHEMA {
        return serde_json::from_slice(bytes).map(|r| AnyReport::Process(Box::new(r))).map_err(invalid);
    }
    if schema == RUN_SCHEMA {
        return serde_json::from_slice(bytes).map(|r| AnyReport::Run(Box::new(r))).map_err(invalid);
    }
    let name = |schema: &str| schema.rsplit_once('/').map(|(name, _)| name.to_string());
    match [SCHEMA, RUN_SCHEMA].into_iter().find(|ours| name(ours) == name(schema)) {
        Some(supported) => {
            Err(LoadError::OtherMajor { path: path_buf(), found: schema.to_string(), supported, writer })
        }
        None => Err(not(format!("its schema is `{}`", schema.escape_debug().take(80).collect::<String>()))),
    }
}

fn syntax(path: &Path, bytes: &[u8], error: &serde_json::Error) -> LoadError {
    let (path, line, column, reason) = (path.to_path_buf(), error.line(), error.column(), reason(error));
    // A number cut after its point or minus is a syntax error to serde_json; what tells is that nothing follows.
    let last = bytes.split(|b| *b == b'\n').next_back().map_or(0, <[u8]>::len);
    let lines = 1 + bytes.iter().filter(|b| **b == b'\n').count();
    let cut_number = reason == "invalid number" && line == lines && column >= last;
    match error.classify() {
        _ if cut_number => LoadError::Truncated { path, line, column, reason },
        Category::Eof => LoadError::Truncated { path, line, column, reason },
        _ => LoadError::Malformed { path, line, column, reason },
    }
}

/// serde_json's words without the position, which stands at the line's beginning.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(reason, _)| reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::json;
    use crate::report::sample;

    fn error(text: &[u8]) -> String {
        parse(Path::new("r.json"), text).unwrap_err().to_string()
    }

    #[test]
    fn both_documents_come_back() {
        let report = sample::full();
        let text = json::to_string(&report);
        assert_eq!(parse(Path::new("r"), text.as_bytes()).unwrap(), AnyReport::Process(Box::new(report)));
        let run = sample::run();
        let text = json::to_string(&run);
        assert_eq!(parse(Path::new("r"), text.as_bytes()).unwrap(), AnyReport::Run(Box::new(run)));
    }

    #[test]
    fn a_later_minor_version_may_add_fields() {
        let mut value = serde_json::to_value(sample::leaking()).unwrap();
        value["added"] = 1.into();
        value["target"]["added"] = "x".into();
        value["groups"][0]["stack"][0]["added"] = serde_json::json!({"deep": []});
        let text = value.to_string();
        assert_eq!(parse(Path::new("r"), text.as_bytes()).unwrap(), AnyReport::Process(Box::new(sample::leaking())));
    }

    #[test]
    fn another_major_is_refused_naming_both() {
        let mut value = serde_json::to_value(sample::clean()).unwrap();
        value["schema"] = "avleak-report/2".into();
        value["avleak"] = "9.1.0".into();
        assert_eq!(
            error(value.to_string().as_bytes()),
            "r.json: schema avleak-report/2 cannot be read by this avleak, which reads avleak-report/1 (use the avleak that \
             wrote it, version 9.1.0)"
        );
        assert!(
            error(br#"{"schema":"avleak-run/7"}"#)
                .contains("avleak-run/7 cannot be read by this avleak, which reads avleak-run/1")
        );
    }

    #[test]
    fn every_truncation_is_called_one() {
        let text = json::to_string(&sample::leaking());
        let text = text.trim_end();
        for end in (1..text.len()).step_by(41) {
            let Some(cut) = text.get(..end) else { continue };
            let error = error(cut.as_bytes());
            assert!(error.starts_with("r.json:") && error.contains("the report is truncated"), "{end}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        assert!(error(b"").contains("empty"));
        assert!(error(b" \n").contains("empty"));
        assert_eq!(error(b"\x7fELF"), "r.json: not a report of avleak: it is not JSON");
        assert_eq!(error(b"[1]"), "r.json: not a report of avleak: it holds no JSON object");
        assert_eq!(error(b"{}"), "r.json: not a report of avleak: it has no field `schema`");
        assert_eq!(error(br#"{"schema":1}"#), "r.json: not a report of avleak: its field `schema` is no string");
        assert_eq!(error(br#"{"schema":"junit/1"}"#), "r.json: not a report of avleak: its schema is `junit/1`");
        assert_eq!(error(b"{\n \"a\": 1,,\n}"), "r.json:2:9: malformed JSON: key must be a string");
        assert_eq!(error(b"{}x"), "r.json:1:3: malformed JSON: trailing characters");
        let mut value = serde_json::to_value(sample::clean()).unwrap();
        value["target"]["pid"] = "eight".into();
        let text = serde_json::to_string_pretty(&value).unwrap();
        let line = 1 + text.lines().position(|l| l.contains("eight")).unwrap();
        let error = error(text.as_bytes());
        assert!(error.starts_with(&format!("r.json:{line}:")), "{error}");
        assert!(
            error.contains("not a valid avleak-report/1 document: invalid type: string \"eight\", expected u32"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = load(Path::new("/nonexistent/r.json")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read report /nonexistent/r.json: ENOENT ("), "{error}");
        let error = load(Path::new("/")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read report /: EISDIR ("), "{error}");
    }
}
