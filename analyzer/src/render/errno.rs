//! The names of error numbers, for messages that say `ENOSPC` and not `os error 28`.

use std::io;

/// `ENOSPC`; the error's own text where it carries no number or one without a name here.
pub fn name(error: &io::Error) -> String {
    const NAMES: [(i32, &str); 28] = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::EINTR, "EINTR"),
        (libc::EIO, "EIO"),
        (libc::ENXIO, "ENXIO"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::EXDEV, "EXDEV"),
        (libc::ENODEV, "ENODEV"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EISDIR, "EISDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENFILE, "ENFILE"),
        (libc::EMFILE, "EMFILE"),
        (libc::ETXTBSY, "ETXTBSY"),
        (libc::EFBIG, "EFBIG"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::EPIPE, "EPIPE"),
        (libc::ENAMETOOLONG, "ENAMETOOLONG"),
        (libc::ELOOP, "ELOOP"),
        (libc::EDQUOT, "EDQUOT"),
        (libc::EADDRINUSE, "EADDRINUSE"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    ];
    let known = error.raw_os_error().and_then(|number| NAMES.iter().find(|(n, _)| *n == number));
    known.map_or_else(|| error.to_string(), |(_, name)| (*name).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_names_and_the_rest_keeps_its_text() {
        assert_eq!(name(&io::Error::from_raw_os_error(28)), "ENOSPC");
        assert_eq!(name(&io::Error::from_raw_os_error(13)), "EACCES");
        assert_eq!(name(&io::Error::other("odd")), "odd");
    }
}
