//! The analyzer: drains the events of watched processes, rebuilds what is alive, decides what is lost, reports it.
//!
//! The way of a fact: [`session`] (socket, segment, rings) → [`live`] (live set, lifetimes) → [`typing`] (what a block is,
//! by its stack, with [`symbols`]) → [`target`] (the process's memory, threads, end) → [`reach`] (classes) → [`graph`]
//! (frames, buffers, refs; [`golang`]: what Go's heap holds), led by [`check`] → [`report`] (leak groups) → [`render`] (text, JSON). [`monitor`] checks a process that runs on again and again, [`http`] tells of it.
//!
//! Guarantees: it never writes to the target; it treats the segment and the target's memory as hostile; `reach` reads memory
//! through a trait and `render` sees only the report model.

pub mod address;
pub mod board;
pub mod check;
pub mod cli;
pub mod fleet;
pub mod gate;
pub mod golang;
pub mod graph;
pub mod http;
pub mod huge;
pub mod keeper;
pub mod kind;
pub mod live;
pub mod monitor;
pub mod reach;
pub mod render;
pub mod report;
pub mod session;
pub mod symbols;
pub mod target;
pub mod top;
pub mod typing;
