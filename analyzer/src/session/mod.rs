//! One watched process: its segment, the thread that drains it, and the live set that grows out of it.
//!
//! * [`place`]: names of sockets. [`server`]: the socket where processes register. * [`segment`]: reading a segment without trusting it.
//! * [`types`]: what each stack makes. * [`drain`]: the thread. * [`clock`]: stamps to seconds.
//! * [`identity`]: what its core file is known by. * [`saved`]: its file, to be laid beside that core.
//! * [`timeline`]: what was alive over the run. * [`vault`]: all that, kept for an analyzer that comes in place of one that was killed.
//! * [`trim`]: what a check needed goes back to the system.

pub mod clock;
pub mod drain;
pub mod identity;
pub mod origin;
pub mod place;
pub mod saved;
pub mod segment;
pub mod server;
pub mod timeline;
pub mod trim;
pub mod types;
pub mod vault;
