//! What is answered to which request.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};

use super::access::{Guard, Refusal};
use super::{metrics, page};
use crate::board::{Board, Watched, state};
use crate::render::load::AnyReport;
use crate::render::{json, pprof};
use crate::report::model::Report;
use crate::report::verdict;

type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Nobody needs to send more than that to be answered.
const LONGEST_BODY: u64 = 4096;

/// Answers a request.
pub fn answer<B: Body>(request: &Request<B>, guard: &Guard, board: &Board) -> Answer {
    if guard.admits(request.headers()) == Err(Refusal::Foreign) {
        return plain(
            StatusCode::FORBIDDEN,
            "this request is meant for another host, or comes from a page of another origin",
        );
    }
    if request.body().size_hint().lower() > LONGEST_BODY {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "no request needs a body");
    }
    let path = request.uri().path();
    let wanted = match path {
        "/check" => Method::POST,
        _ => Method::GET,
    };
    let method = request.method();
    if *method != wanted && !(wanted == Method::GET && *method == Method::HEAD) {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} is for {wanted}"));
        put(&mut refusal, ALLOW, wanted.as_str());
        return refusal;
    }
    match path {
        // Neither holds anything of a process.
        "/healthz" => return plain(StatusCode::OK, "ok"),
        "/" => return page(),
        _ => {}
    }
    if guard.trusts(request.headers()).is_err() {
        let mut refusal = plain(StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN");
        put(&mut refusal, WWW_AUTHENTICATE, "Bearer realm=\"avleak\"");
        return refusal;
    }
    let query = Query(request.uri().query().unwrap_or_default());
    match path {
        "/metrics" => match metrics::text(&board.all()) {
            Ok(text) => of(StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(line) => plain(StatusCode::INTERNAL_SERVER_ERROR, &line),
        },
        "/state.json" => of(StatusCode::OK, JSON, state::json(&board.all())),
        "/group.json" => with_reports(board, query, |reports| {
            let id = query.get("id").unwrap_or_default();
            match reports.iter().find_map(|report| report.groups.iter().find(|group| group.id == id)) {
                Some(group) => of(StatusCode::OK, JSON, json::to_string(group)),
                None => plain(StatusCode::NOT_FOUND, "no such group in the last report"),
            }
        }),
        "/report.json" => with_reports(board, query, |reports| of(StatusCode::OK, JSON, written(reports))),
        "/debug/pprof/heap" => with_reports(board, query, |reports| {
            let mut answer = of(StatusCode::OK, "application/octet-stream", pprof::pprof(&document(reports)));
            put(&mut answer, CONTENT_DISPOSITION, "attachment; filename=\"heap.pb.gz\"");
            answer
        }),
        "/check" => check(board, query),
        _ => plain(
            StatusCode::NOT_FOUND,
            "there are /, /metrics, /debug/pprof/heap, /report.json, /healthz, and POST /check; ?pid=N chooses a process",
        ),
    }
}

/// `a=1&b=2`; nothing that is asked for needs an escape.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn get(self, key: &str) -> Option<&'a str> {
        self.0.split('&').find_map(|item| item.split_once('=').filter(|(name, _)| *name == key)).map(|(_, value)| value)
    }
}

/// Those whom the request is about: all, or the one of `pid`.
///
/// # Errors
/// Why there is nobody.
fn chosen(board: &Board, query: Query<'_>) -> Result<Vec<Arc<Watched>>, &'static str> {
    let mut all = board.all();
    if let Some(pid) = query.get("pid") {
        all.retain(|watched| watched.pid().to_string() == pid);
        if all.is_empty() {
            return Err("no process of that id uses FFmpeg here");
        }
    }
    Ok(all)
}

fn with_reports(board: &Board, query: Query<'_>, then: impl FnOnce(Vec<Arc<Report>>) -> Answer) -> Answer {
    match chosen(board, query) {
        // One that ends meanwhile is not there any more.
        Ok(all) => then(all.iter().filter_map(|watched| watched.report().ok()).collect()),
        Err(line) => plain(StatusCode::NOT_FOUND, line),
    }
}

fn check(board: &Board, query: Query<'_>) -> Answer {
    let all = match chosen(board, query) {
        Ok(all) => all,
        Err(line) => return plain(StatusCode::NOT_FOUND, line),
    };
    let (mut reports, mut problems) = (Vec::new(), Vec::new());
    for watched in all {
        match watched.check() {
            Ok(report) => reports.push(report),
            Err(line) => problems.push(line),
        }
    }
    if let Some(line) = problems.first()
        && reports.is_empty()
    {
        return plain(StatusCode::CONFLICT, line);
    }
    of(StatusCode::OK, JSON, written(reports))
}

fn written(reports: Vec<Arc<Report>>) -> String {
    match document(reports) {
        AnyReport::Process(report) => json::to_string(&report),
        AnyReport::Run(run) => json::to_string(&run),
    }
}

/// As `avleak check` has it: one process is a report, several are a run.
fn document(reports: Vec<Arc<Report>>) -> AnyReport {
    let mut reports: Vec<Report> = reports.into_iter().map(Arc::unwrap_or_clone).collect();
    if reports.len() == 1 {
        return AnyReport::Process(Box::new(reports.remove(0)));
    }
    AnyReport::Run(Box::new(verdict::sum_up(vec!["avleak".into(), "http".into()], None, 1, reports)))
}

fn page() -> Answer {
    let mut answer = of(StatusCode::OK, "text/html; charset=utf-8", page::html());
    put(&mut answer, CONTENT_SECURITY_POLICY, &page::policy());
    put(&mut answer, X_FRAME_OPTIONS, "DENY");
    answer
}

fn plain(status: StatusCode, text: &str) -> Answer {
    of(status, TEXT, format!("{text}\n"))
}

fn of(status: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    put(&mut answer, CONTENT_TYPE, content_type);
    put(&mut answer, CACHE_CONTROL, "no-store");
    put(&mut answer, X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(&mut answer, REFERRER_POLICY, "no-referrer");
    answer
}

/// All of them are written here, and none has a letter that a header may not have.
fn put(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{AUTHORIZATION, HOST};
    use std::net::SocketAddr;

    fn asked(method: Method, path: &str, host: &str, token: Option<&str>) -> StatusCode {
        let guard = Guard::new(SocketAddr::from(([127, 0, 0, 1], 9464)), token.map(|_| "the token of the server"));
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        answer(&request.body(Full::new(Bytes::new())).expect("a request"), &guard, &Board::default()).status()
    }

    #[test]
    fn each_path_has_its_method() {
        let here = |method, path| asked(method, path, "localhost:9464", None);
        for path in
            ["/", "/metrics", "/healthz", "/report.json", "/debug/pprof/heap", "/state.json", "/report.json?x=1"]
        {
            assert_eq!(here(Method::GET, path), StatusCode::OK, "{path}");
            assert_eq!(here(Method::POST, path), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
        assert_eq!(here(Method::HEAD, "/metrics"), StatusCode::OK);
        assert_eq!(here(Method::GET, "/check"), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(here(Method::POST, "/check"), StatusCode::OK);
        assert_eq!(here(Method::POST, "/check?pid=1"), StatusCode::NOT_FOUND);
        assert_eq!(here(Method::GET, "/etc/passwd"), StatusCode::NOT_FOUND);
    }

    #[test]
    fn foreign_requests_and_wrong_tokens_see_nothing() {
        assert_eq!(asked(Method::GET, "/metrics", "evil.example", None), StatusCode::FORBIDDEN);
        assert_eq!(asked(Method::POST, "/check", "evil.example", None), StatusCode::FORBIDDEN);
        for path in ["/metrics", "/report.json", "/state.json", "/debug/pprof/heap", "/group.json", "/nothing"] {
            assert_eq!(asked(Method::GET, path, "localhost", Some("wrong")), StatusCode::UNAUTHORIZED, "{path}");
        }
        assert_eq!(asked(Method::POST, "/check", "localhost", Some("wrong")), StatusCode::UNAUTHORIZED);
        assert_eq!(asked(Method::GET, "/metrics", "localhost", Some("the token of the server")), StatusCode::OK);
        assert_eq!(asked(Method::GET, "/healthz", "localhost", Some("wrong")), StatusCode::OK);
    }
}
