//! `/metrics`: the processes in Prometheus's text format.
//!
//! Labels are bounded: each process has the first [`MOST_GROUPS`] groups of its last check, in the order of reports, and one sum of the
//! others for each class. Nothing is checked for a scrape.

use prometheus::{CounterVec, Encoder, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::board::Watched;
use crate::render::brief;
use crate::report::model::{Class, ClassTotals, Group, Report};

/// Groups of a process that have a line of their own.
const MOST_GROUPS: usize = 20;
/// Characters of a label.
const MOST_LETTERS: usize = 160;
/// Prometheus's text format, as scrapers ask for it.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

const OF_PROCESS: [&str; 3] = ["pid", "process", "service"];
const OF_CLASS: [&str; 4] = ["pid", "process", "service", "class"];
const OF_GROUP: [&str; 7] = ["pid", "process", "service", "group", "class", "object", "where"];

/// Everything that is told.
struct Metrics {
    registry: Registry,
    live_frames: IntGaugeVec,
    live_blocks: IntGaugeVec,
    live_payload: IntGaugeVec,
    frames_allocated: IntCounterVec,
    frames_freed: IntCounterVec,
    allocations: IntCounterVec,
    frees: IntCounterVec,
    dropped: IntCounterVec,
    waited: CounterVec,
    checks: IntCounterVec,
    checks_failed: IntCounterVec,
    stopped: CounterVec,
    last_stopped: GaugeVec,
    last_took: GaugeVec,
    last_at: GaugeVec,
    alerts: IntCounterVec,
    frames: IntGaugeVec,
    pinned: IntGaugeVec,
    leaked_frames: IntGaugeVec,
    leaked_pinned: IntGaugeVec,
    group_objects: IntGaugeVec,
    group_pinned: IntGaugeVec,
    goroutines: IntGaugeVec,
}

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntGaugeVec> {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let real = |name: &str, help: &str| -> prometheus::Result<GaugeVec> {
            let metric = GaugeVec::new(Opts::new(name, help), &OF_PROCESS)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let count = |name: &str, help: &str| -> prometheus::Result<IntCounterVec> {
            let metric = IntCounterVec::new(Opts::new(name, help), &OF_PROCESS)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let time = |name: &str, help: &str| -> prometheus::Result<CounterVec> {
            let metric = CounterVec::new(Opts::new(name, help), &OF_PROCESS)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        Ok(Self {
            live_frames: gauge("avleak_live_frames", "AVFrames that are alive now.", &OF_PROCESS)?,
            live_blocks: gauge("avleak_live_blocks", "Blocks of the malloc family that are alive now.", &OF_PROCESS)?,
            live_payload: gauge(
                "avleak_live_payload_bytes",
                "Pixels, samples and packet data that are alive now.",
                &OF_PROCESS,
            )?,
            frames_allocated: count("avleak_frames_allocated_total", "AVFrames made.")?,
            frames_freed: count("avleak_frames_freed_total", "AVFrames freed.")?,
            allocations: count("avleak_allocations_total", "Blocks returned by the malloc family.")?,
            frees: count("avleak_frees_total", "Blocks given back.")?,
            dropped: count("avleak_events_dropped_total", "Events that were lost.")?,
            waited: time("avleak_producer_wait_seconds_total", "Time for which threads waited for avleak.")?,
            checks: count("avleak_checks_total", "Checks of the running process.")?,
            checks_failed: count("avleak_checks_failed_total", "Checks that came to nothing.")?,
            stopped: time("avleak_check_stopped_seconds_total", "Time for which checks made the process stand still.")?,
            last_stopped: real(
                "avleak_last_check_stopped_seconds",
                "For how long the last check made it stand still.",
            )?,
            last_took: real("avleak_last_check_duration_seconds", "How long the last check took.")?,
            last_at: real("avleak_last_check_timestamp_seconds", "When the last check began.")?,
            alerts: count("avleak_alerts_total", "Alerts of the process.")?,
            frames: gauge("avleak_frames", "AVFrames at the last check, by class.", &OF_CLASS)?,
            pinned: gauge(
                "avleak_pinned_bytes",
                "Bytes of the buffers that lost refs pin at the last check, by class.",
                &OF_CLASS,
            )?,
            leaked_frames: gauge(
                "avleak_leaked_frames",
                "AVFrames that the verdict of the last check counts.",
                &OF_PROCESS,
            )?,
            leaked_pinned: gauge("avleak_leaked_pinned_bytes", "Bytes that these pin.", &OF_PROCESS)?,
            group_objects: gauge("avleak_group_objects", "Objects of a leak group at the last check.", &OF_GROUP)?,
            group_pinned: gauge(
                "avleak_group_pinned_bytes",
                "Bytes that the objects of a leak group pin at the last check.",
                &OF_GROUP,
            )?,
            goroutines: gauge("avleak_goroutines", "Go's goroutines at the last check.", &OF_PROCESS)?,
            registry,
        })
    }

    fn tell(&self, watched: &Watched) {
        let pid = watched.pid().to_string();
        let process = label(&watched.process);
        // An empty label is none.
        let service = label(watched.inspector.service().unwrap_or_default());
        let labels = [pid.as_str(), process.as_str(), service.as_str()];
        if let Some(numbers) = watched.inspector.numbers() {
            self.live_frames.with_label_values(&labels).set(signed(numbers.frames));
            self.live_blocks.with_label_values(&labels).set(signed(numbers.blocks));
            self.live_payload.with_label_values(&labels).set(signed(numbers.payload_bytes));
            self.frames_allocated.with_label_values(&labels).inc_by(numbers.frames_allocated);
            self.frames_freed.with_label_values(&labels).inc_by(numbers.frames_freed);
            self.allocations.with_label_values(&labels).inc_by(numbers.allocations);
            self.frees.with_label_values(&labels).inc_by(numbers.frees);
            self.dropped.with_label_values(&labels).inc_by(numbers.dropped);
            self.waited.with_label_values(&labels).inc_by(numbers.waited_s);
        }
        let tally = watched.inspector.tally();
        self.checks.with_label_values(&labels).inc_by(tally.checks);
        self.checks_failed.with_label_values(&labels).inc_by(tally.failed);
        self.stopped.with_label_values(&labels).inc_by(tally.stopped_s);
        if let Some(monitor) = &watched.monitor {
            let alerts = monitor.lock().unwrap_or_else(std::sync::PoisonError::into_inner).alerts();
            self.alerts.with_label_values(&labels).inc_by(alerts);
        }
        if let Some(report) = watched.inspector.kept() {
            self.tell_report(&report, &labels);
        }
    }

    fn tell_report(&self, report: &Report, labels: &[&str; 3]) {
        self.last_stopped.with_label_values(labels).set(report.check.stopped_ms / 1e3);
        self.last_took.with_label_values(labels).set(report.check.duration_s);
        let began = humantime::parse_rfc3339(&report.check.started).ok();
        let began = began.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        self.last_at.with_label_values(labels).set(began.map_or(0.0, |since| since.as_secs_f64()));
        self.leaked_frames.with_label_values(labels).set(signed(report.leaks.frames));
        self.leaked_pinned.with_label_values(labels).set(signed(report.leaks.pinned_bytes));
        for (class, totals) in by_class(&report.totals) {
            let labels = [labels[0], labels[1], labels[2], class.key()];
            self.frames.with_label_values(&labels).set(signed(totals.frames));
            self.pinned.with_label_values(&labels).set(signed(totals.pinned_bytes));
        }
        for (at, group) in report.groups.iter().enumerate() {
            let place = brief::blamed(group).map(brief::site).unwrap_or_default();
            let [object, place] = [&group.object, &place].map(|text| label(text));
            let own = [labels[0], labels[1], labels[2], &group.id, group.class.key(), &object, &place];
            let others = [labels[0], labels[1], labels[2], "other", group.class.key(), "", ""];
            self.add(group, if at < MOST_GROUPS { &own } else { &others });
        }
        if let Some(go) = &report.go {
            self.goroutines.with_label_values(labels).set(signed(go.goroutines));
        }
    }

    fn add(&self, group: &Group, labels: &[&str; 7]) {
        self.group_objects.with_label_values(labels).add(signed(group.count));
        self.group_pinned.with_label_values(labels).add(signed(group.pinned_bytes));
    }
}

fn by_class(totals: &ClassTotals) -> [(Class, &crate::report::model::Totals); 4] {
    [
        (Class::DefinitelyLost, &totals.definitely_lost),
        (Class::IndirectlyLost, &totals.indirectly_lost),
        (Class::PossiblyLost, &totals.possibly_lost),
        (Class::StillReachable, &totals.still_reachable),
    ]
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// On one line and not too long: names may be a kilobyte of C++.
fn label(text: &str) -> String {
    let clean = brief::clean(text);
    match clean.char_indices().nth(MOST_LETTERS) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean,
    }
}

/// The text of a scrape.
///
/// # Errors
/// A line; only if a name here were no name.
pub fn text(processes: &[impl AsRef<Watched>]) -> Result<Vec<u8>, String> {
    let tell = || -> prometheus::Result<Vec<u8>> {
        let metrics = Metrics::new()?;
        processes.iter().for_each(|watched| metrics.tell(watched.as_ref()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&metrics.registry.gather(), &mut text)?;
        Ok(text)
    };
    tell().map_err(|error| format!("cannot write the metrics: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn of(report: &Report) -> String {
        let metrics = Metrics::new().expect("metrics");
        metrics.tell_report(report, &["812", "server", "live"]);
        let mut text = Vec::new();
        TextEncoder::new().encode(&metrics.registry.gather(), &mut text).expect("text");
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn groups_are_bounded_and_sums_are_kept() {
        let mut report = sample::leaking();
        report.groups = (0..1_000_u64)
            .map(|n| Group {
                id: format!("{n:016x}"),
                count: 2,
                pinned_bytes: 10,
                class: Class::DefinitelyLost,
                ..sample::plain_group()
            })
            .collect();
        let text = of(&report);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("avleak_group_objects{")).collect();
        assert_eq!(lines.len(), MOST_GROUPS + 1);
        let sum: u64 = lines.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
        assert_eq!(sum, 2_000);
        assert!(lines.iter().any(|line| line.contains("group=\"other\"") && line.ends_with(" 1960")), "{lines:#?}");
    }

    #[test]
    fn names_cannot_break_a_line() {
        let mut report = sample::leaking();
        report.groups.truncate(1);
        report.groups[0].object = format!("a\"b\\c\n{}", "x".repeat(5_000));
        let text = of(&report);
        let line = text.lines().find(|line| line.starts_with("avleak_group_objects{")).expect("a line");
        assert!(line.contains("object=\"a\\\"b\\\\c x") && line.len() < 1_000, "{line}");
    }

    #[test]
    fn classes_add_up() {
        let report = sample::leaking();
        let text = of(&report);
        let lost = format!(
            "avleak_frames{{class=\"definitely_lost\",pid=\"812\",process=\"server\",service=\"live\"}} {}",
            report.totals.definitely_lost.frames
        );
        assert!(text.contains(&lost), "{text}");
    }
}
