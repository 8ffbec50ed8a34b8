//! What a hostile process does to its own segment, as bytes: each script is a valid start and then anything.
//!
//! A script never fails to parse: every byte string is one, so that it can be mutated at will. It writes through the descriptor, beside
//! the analyzer's mapping, as another process would.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use avleak_wire::layout as wire;
use rustix::fs::{MemfdFlags, SealFlags};

/// Rings that a script touches.
const RINGS: u64 = 8;
/// Numbers at which code goes wrong.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    7,
    16,
    63,
    4095,
    4096,
    wire::RING_EVENTS - 1,
    wire::RING_EVENTS,
    wire::RING_EVENTS + 1,
    wire::MAX_NODES as u64 - 1,
    u32::MAX as u64,
    1 << 40,
    (1 << 47) - 4096,
    (1 << 56) - 1,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX - 1,
    u64::MAX,
];
/// What a process may call its modules: files that are none, never end, or wait for somebody.
pub const PATHS: [&str; 14] = [
    "",
    "/proc/self/exe",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libavutil.so.57",
    "/dev/zero",
    "/dev/stdin",
    "/dev/tty",
    "/proc/self/mem",
    "/proc/kmsg",
    "/proc/self/maps",
    "/tmp",
    "../../../etc/passwd",
    "\u{1b}[2J<script>&\"\n",
    "@HOSTILE@",
];

/// A segment as a process would hand it over, in which nothing was recorded.
pub fn segment() -> OwnedFd {
    // By this name the check knows that it is no memory of the process' own.
    let fd = rustix::fs::memfd_create("avleak", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, wire::SEGMENT_BYTES).unwrap();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    let file = File::from(fd);
    let header = |offset: usize, bytes: &[u8]| file.write_all_at(bytes, offset as u64).unwrap();
    header(std::mem::offset_of!(wire::Header, magic), &wire::MAGIC.to_le_bytes());
    header(std::mem::offset_of!(wire::Header, version), &u32::from(wire::MAJOR).to_le_bytes());
    header(std::mem::offset_of!(wire::Header, clock), &wire::CLOCK_TSC.to_le_bytes());
    header(std::mem::offset_of!(wire::Header, ring_slots), &wire::MAX_RINGS.to_le_bytes());
    header(std::mem::offset_of!(wire::Header, ring_count), &(RINGS as u32).to_le_bytes());
    OwnedFd::from(file)
}

/// A script that is being carried out.
pub struct Script<'a> {
    bytes: &'a [u8],
    file: &'a File,
    /// A real mapping of this process: addresses that can be read.
    heap: u64,
    /// A file that only looks like an ELF file.
    hostile_elf: &'a str,
    heads: [u64; RINGS as usize],
    stamp: u64,
}

impl<'a> Script<'a> {
    /// Over `bytes`, into the segment `file`.
    pub fn new(bytes: &'a [u8], file: &'a File, heap: u64, hostile_elf: &'a str) -> Self {
        Self { bytes, file, heap, hostile_elf, heads: [0; RINGS as usize], stamp: 1 }
    }

    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        first
    }

    fn short(&mut self) -> u64 {
        u64::from(self.byte()) | u64::from(self.byte()) << 8
    }

    fn value(&mut self) -> u64 {
        match self.byte() {
            selector @ 0..64 => EDGES[selector as usize % EDGES.len()],
            64..112 => u64::from(self.byte()),
            112..160 => self.short(),
            160..224 => self.heap + self.short() * 16,
            _ => (0..8).fold(0, |sum, at| sum | u64::from(self.byte()) << (8 * at)),
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        if at.saturating_add(bytes.len() as u64) <= wire::SEGMENT_BYTES {
            self.file.write_all_at(bytes, at).unwrap();
        }
    }

    fn word(&self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    fn ring(&mut self) -> (usize, u64) {
        let ring = u64::from(self.byte()) % RINGS;
        (ring as usize, wire::RINGS_OFFSET + ring * wire::RING_STRIDE)
    }

    fn push(&mut self, ring: usize, stamp: u64, kind: u8, address: u64, size: u64, stack: u32) {
        let at = wire::RINGS_OFFSET + ring as u64 * wire::RING_STRIDE;
        let head = self.heads[ring];
        let cell = at + wire::EVENTS_IN_RING + head % wire::RING_EVENTS * 32;
        self.word(cell, stamp);
        self.word(cell + 8, address & ((1 << 56) - 1) | u64::from(kind) << 56);
        self.word(cell + 16, size);
        self.word(cell + 24, u64::from(stack) | ((head + 1) & 0xffff_ffff) << 32);
        self.heads[ring] = head + 1;
        self.word(at, head + 1);
    }

    /// Carries out the next step; `None` at the end, else whether the analyzer should have a moment now.
    pub fn step(&mut self) -> Option<bool> {
        if self.bytes.is_empty() {
            return None;
        }
        match self.byte() % 14 {
            0 => {
                let at = 16 + u64::from(self.byte()) % 40 * 8;
                let value = self.value();
                self.word(at, value);
            }
            1 => {
                let at = wire::MODULES_OFFSET + self.short() % 64 * 512 + u64::from(self.byte()) % 64 * 8;
                let value = self.value();
                self.word(at, value);
            }
            2 => self.module(),
            3 => {
                let at = wire::NODES_OFFSET + self.short() % 512 * 16;
                let (pc, parent, module) = (self.value(), self.value(), self.byte());
                self.word(at, pc);
                self.word(at + 8, parent & 0xffff_ffff | u64::from(module) << 32);
                self.write(std::mem::offset_of!(wire::Header, node_count) as u64, &wire::MAX_NODES.to_le_bytes());
            }
            4 => {
                let (ring, _) = self.ring();
                let kind = [1, 1, 1, 2, 2, 3, 16, 17, 18, 19, 20, 77][self.byte() as usize % 12];
                let (address, size, stack) = (self.value(), self.value(), self.value());
                let stamp = if self.byte() < 200 { self.stamp } else { self.value() };
                self.stamp += 1;
                self.push(ring, stamp, kind, address, size, stack as u32);
            }
            5 => self.churn(),
            6 => {
                let regions = [
                    0,
                    wire::MODULES_OFFSET,
                    wire::NODES_OFFSET,
                    wire::RINGS_OFFSET,
                    wire::RINGS_OFFSET + wire::PAGE,
                    wire::TEXTS_OFFSET,
                ];
                let at = regions[self.byte() as usize % regions.len()] + self.short() * 8;
                let value = self.value();
                // Magic and version are refused before anything is read: the unit tests of the segment look at that.
                if at >= 16 {
                    self.word(at, value);
                }
            }
            7 => {
                let (_, at) = self.ring();
                let value = self.value();
                self.word(at, value);
            }
            8 => {
                let (_, at) = self.ring();
                let (word, value) = (u64::from(self.byte()) % 40, self.value());
                self.word(at + word * 8, value);
            }
            9 => {
                let (_, at) = self.ring();
                let cell = at + wire::YOUNG_IN_RING + self.short() % u64::from(wire::YOUNG_SLOTS) * 32;
                let (stamp, address, size, last) = (self.value(), self.value(), self.value(), self.value());
                self.word(cell, stamp);
                self.word(cell + 16, size);
                self.word(cell + 24, last);
                self.word(cell + 8, address & ((1 << 56) - 1) | 1 << 56);
            }
            10 => {
                let (_, at) = self.ring();
                let cell = at + wire::DEATHS_IN_RING + self.short() % u64::from(wire::DEATH_SLOTS) * 16;
                let (pair, count) = (self.value(), self.value());
                self.word(cell, pair);
                self.word(cell + 8, count);
            }
            11 => {
                // Somebody walks down the nodes: a chain as deep as it gets, or one that bites its tail.
                let (from, count) = (self.short() % 512, self.short() % 2048);
                let loops = self.byte() < 64;
                for node in from..from + count {
                    let parent = if loops { node + 1 } else { node.saturating_sub(1) };
                    self.word(wire::NODES_OFFSET + node * 16, 0x1000 + node);
                    self.word(wire::NODES_OFFSET + node * 16 + 8, parent | 1 << 32);
                }
                self.write(std::mem::offset_of!(wire::Header, node_count) as u64, &wire::MAX_NODES.to_le_bytes());
            }
            13 => self.text(),
            _ => return Some(true),
        }
        Some(false)
    }

    /// A function of Python's, and the node that names it.
    fn text(&mut self) {
        let (place, node) = (8 + self.short() % 512 * 8, 1 + self.short() % 511);
        let (file, name, line, lengths) = (self.value(), self.value(), self.byte(), self.byte());
        let used = if lengths < 200 { place + 4096 } else { self.value() };
        self.write(std::mem::offset_of!(wire::Header, text_bytes) as u64, &(used as u32).to_le_bytes());
        self.word(wire::TEXTS_OFFSET + place, file & 0xffff_ffff | name << 32);
        self.write(wire::TEXTS_OFFSET + place + 8, b"/srv/\xff\x1b[2J.py<module>\0\n");
        self.word(wire::NODES_OFFSET + node * 16, place << 32 | u64::from(line));
        let parent = if lengths % 2 == 0 { node - 1 } else { self.value() & 0xffff_ffff };
        self.word(wire::NODES_OFFSET + node * 16 + 8, parent | u64::from(wire::NODE_PYTHON) << 32);
        self.write(std::mem::offset_of!(wire::Header, node_count) as u64, &wire::MAX_NODES.to_le_bytes());
    }

    fn module(&mut self) {
        let index = self.short() % 64;
        let at = wire::MODULES_OFFSET + index * 512;
        let path = PATHS[self.byte() as usize % PATHS.len()];
        let path = if path == "@HOSTILE@" { self.hostile_elf } else { path };
        let (base, start, end) = (self.value(), self.value(), self.value());
        let (flags, lengths) = (u64::from(self.byte()), self.byte());
        for (word, value) in [base, start, end].into_iter().enumerate() {
            self.word(at + word as u64 * 8, value);
        }
        let id_len = if lengths < 128 { 0 } else { self.value() & 0xffff_ffff };
        self.word(at + 40, flags | id_len << 32);
        let len = if lengths % 2 == 0 { path.len() as u64 } else { self.value() & 0xffff_ffff };
        self.word(at + 48, len);
        self.write(at + 88, path.as_bytes());
        let count = if lengths.is_multiple_of(3) { self.value() as u32 } else { index as u32 + 1 };
        self.write(std::mem::offset_of!(wire::Header, module_count) as u64, &count.to_le_bytes());
    }

    /// Many events of one kind.
    fn churn(&mut self) {
        let (ring, _) = self.ring();
        let (count, kind, stride) = (self.short() % 2048, self.byte(), self.value());
        let (start, size, stack) = (self.value(), self.value(), self.value());
        for at in 0..count {
            let stamp = if kind & 1 == 0 { self.stamp } else { u64::MAX - self.stamp };
            self.stamp += 1;
            let address = start.wrapping_add(stride.wrapping_mul(at));
            let event = match kind % 4 {
                0 => 1,
                1 => 2,
                2 => 1 + (at % 3) as u8,
                _ => [1, 2, 16, 17, 19, 20][at as usize % 6],
            };
            let stack = if kind & 4 == 0 { stack as u32 } else { (stack as u32).wrapping_add(at as u32) };
            self.push(ring, stamp, event, address, size, stack);
        }
    }
}
