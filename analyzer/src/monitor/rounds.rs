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

/// Keeps what the checks so far came to where it outlives this process.
pub type Keep = Arc<dyn Fn() + Send + Sync>;

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
    /// To be called after each check.
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
    let monitor = || order.monitor.lock().unwrap_or_else(PoisonError::into_inner);
    match checked {
        Ok(mut report) => {
            order.rules.apply_to_process(&mut report, 1);
            let alerts = monitor().checked(&report);
            // Told first, kept then: whoever is killed in between tells twice rather than never.
            order.delivery.deliver(alerts, &report);
            order.inspector.keep(report);
        }
        Err(_) => monitor().failed(),
    }
    (order.keep)();
}
