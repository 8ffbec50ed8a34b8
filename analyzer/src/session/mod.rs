//! One watched process: its segment, the thread that drains it, and the live set that grows out of it.
//!
//! * [`place`]: names of sockets. [`server`]: the socket where processes register. * [`segment`]: reading a segment without trusting it.
//! * [`types`]: what each stack makes. * [`drain`]: the thread. * [`clock`]: stamps to seconds.
//! * [`timeline`]: what was alive over the run. * [`vault`]: all that, kept for an analyzer that comes in place of one that was killed.

pub mod clock;
pub mod drain;
pub mod origin;
pub mod place;
pub mod segment;
pub mod server;
pub mod timeline;
pub mod types;
pub mod vault;
