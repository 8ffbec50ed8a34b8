//! A thread that goes before others: a target stands still until it is done.

/// The calling thread goes before others while this lives, where that is allowed.
pub struct Hurry {
    before: Option<i32>,
}

impl Hurry {
    const NICE: i32 = -10;

    /// From now on.
    pub fn begin() -> Self {
        // Of the calling thread, whatever the name says (setpriority(2), "C library/kernel differences").
        let before = rustix::process::getpriority_process(None).ok();
        let before = before.filter(|_| rustix::process::setpriority_process(None, Self::NICE).is_ok());
        Self { before }
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            let _ = rustix::process::setpriority_process(None, before);
        }
    }
}
