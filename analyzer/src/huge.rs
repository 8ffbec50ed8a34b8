//! Large buffers in huge pages, where the kernel has some: a stopped process waits while a buffer's pages are cleared one by one, and
//! in a virtual machine each page of 4 KiB that is met for the first time can cost microseconds.
#![allow(unsafe_code, reason = "a hint to the kernel about memory of ours")]

/// A huge page of x86-64.
const HUGE: usize = 2 << 20;

/// Room for `capacity` elements, in huge pages if it is worth it.
pub fn vec<T>(capacity: usize) -> Vec<T> {
    let room: Vec<T> = Vec::with_capacity(capacity);
    let start = (room.as_ptr() as usize).next_multiple_of(HUGE);
    let end = (room.as_ptr() as usize + room.capacity() * size_of::<T>()) / HUGE * HUGE;
    if start < end {
        // SAFETY: whole pages inside of the buffer, which is ours alone; the hint changes nothing that can be read. A kernel without
        // huge pages refuses it.
        let _ = unsafe { rustix::mm::madvise(start as *mut _, end - start, rustix::mm::Advice::LinuxHugepage) };
    }
    room
}

#[cfg(test)]
mod tests {
    #[test]
    fn buffers_of_any_size_hold_what_they_should() {
        for count in [0, 1, 1000, 600_000, 3_000_000] {
            let mut numbers: Vec<u64> = super::vec(count);
            assert!(numbers.capacity() >= count);
            numbers.extend(0..count as u64);
            assert!(numbers.iter().enumerate().all(|(at, &number)| number == at as u64));
        }
    }
}
