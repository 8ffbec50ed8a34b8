//! The thread that checks one process again and again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::Monitor;
use super::deliver::Delivery;
use crate::check::inspector::{Inspector, Question};
use crate::gate::apply::Rules;
use crate::report::model::Level;

/// A process is checked for at most this part of the time, however short the interval.
const SHARE: u32 = 2;

/// Checks that go on until this is dropped.
pub struct Rounds {
    _stop: Sender<()>,
}

/// Takes a monitor's state.
pub type Keep = Box<dyn Fn(&[u8]) + Send>;

/// What the rounds work with.
pub struct Order {
    /// Who is checked.
    pub inspector: Arc<Inspector>,
    /// What counts as a leak.
    pub level: Level,
    /// From check to check.
    pub interval: Duration,
    /// What the verdict lets through.
    pub rules: Arc<Rules>,
    /// What the checks come to.
    pub monitor: Arc<Mutex<Monitor>>,
    /// Whom to tell.
    pub delivery: Delivery,
    /// Keeps what the monitor knows where it outlives this process.
    pub keep: Keep,
}

/// Begins: the first check is one interval from now. What has just started is warming up.
///
/// # Errors
/// Where no thread can be started.
pub fn start(order: Order) -> std::io::Result<Rounds> {
    let (stop, stopped) = bounded::<()>(0);
    let name = format!("monitor-{}", order.inspector.pid());
    std::thread::Builder::new().name(name).spawn(move || {
        let mut pause = order.interval;
        while matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
            let begun = Instant::now();
            round(&order);
            let took = begun.elapsed();
            pause = order.interval.saturating_sub(took).max(took * (SHARE - 1));
        }
    })?;
    Ok(Rounds { _stop: stop })
}

fn round(order: &Order) {
    let question = Question { level: order.level, hold: Duration::ZERO, increased: false };
    let checked = order.inspector.check(&question, false);
    let state = {
        let mut monitor = order.monitor.lock().unwrap_or_else(PoisonError::into_inner);
        match checked {
            Ok(mut report) => {
                order.rules.apply_to_process(&mut report, 1);
                let before = monitor.alerts();
                let alerts = monitor.checked(&report);
                let state = monitor.state();
                drop(monitor);
                // Told first, kept then: whoever is killed in between tells twice rather than never.
                order.delivery.deliver(alerts, &report, before);
                order.inspector.keep(report);
                state
            }
            Err(_) => {
                monitor.failed();
                monitor.state()
            }
        }
    };
    (order.keep)(&state);
}
