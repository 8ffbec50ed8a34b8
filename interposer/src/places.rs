//! What all threads know of addresses: by how many frees that emptied no young cell, in whose table ([`crate::foreign`]), told to the analyzer
//! or not ([`crate::told`]).
//!
//! Both are asked for at each free, of an address that is as good as random: in a server that does something else between two calls each is
//! a line that comes from far away. So both lie in one.

use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::sys;

const PLACES: usize = 1 << 14;

/// Shared by all addresses that have their place here. 256 KiB in all, of which a process with few addresses touches little.
#[repr(C, align(16))]
pub struct Place {
    /// See [`crate::foreign`].
    pub frees: AtomicU32,
    /// See [`crate::foreign`].
    pub holder: AtomicU32,
    /// See [`crate::told`].
    pub told: AtomicU64,
}

impl Place {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self { frees: AtomicU32::new(0), holder: AtomicU32::new(0), told: AtomicU64::new(0) }
    }
}

static ALL: [Place; PLACES] = [const { Place::new() }; PLACES];

/// That of an address.
#[inline(always)]
pub fn of(address: u64) -> &'static Place {
    let place = ((address >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50) as usize;
    &ALL[place % PLACES]
}

/// All of them.
pub fn all() -> &'static [Place] {
    &ALL
}

/// What is known of `address` is asked for soon.
#[inline(always)]
pub fn fetch(address: u64) {
    sys::fetch(of(address));
}
