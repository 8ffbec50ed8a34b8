//! Finds FFmpeg that is linked into a program's own file: where it cannot be watched, that is said instead of "no FFmpeg".

use std::fs::File;
use std::io::Read;
use std::path::Path;

use object::read::ReadCache;
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSymbol, elf};

/// FFmpeg's assertions name their source files: every build of libavutil holds such paths (`src/libavutil/mem.c`).
const MARK: &[u8] = b"libavutil/";
/// What is looked at at a time, bytes.
const WINDOW: usize = 1 << 20;
/// Larger files are not searched.
const LARGEST: u64 = 2 << 30;

/// The ELF program at `path` holds FFmpeg's own code, and does not load it as a library. Reads the file once, from its start.
pub fn holds_ffmpeg(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    if !file.metadata().is_ok_and(|about| about.is_file() && about.len() <= LARGEST) {
        return false;
    }
    !loads_ffmpeg(&file) && contains(file, MARK)
}

/// The program's symbol tables name FFmpeg's functions: then libavleak.so knows it, and would have seen it at work.
pub fn names_ffmpeg(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let cache = ReadCache::new(file);
    let Ok(parsed) = ElfFile64::<Endianness, _>::parse(&cache) else { return false };
    let named = |symbol: object::read::elf::ElfSymbol64<'_, '_, Endianness, _>| {
        symbol.is_definition() && symbol.name_bytes() == Ok(b"av_frame_alloc")
    };
    parsed.symbols().any(named) || parsed.dynamic_symbols().any(named)
}

/// It needs libavutil or its kin as a shared library. True also for what is no ELF file: nothing is linked into that.
fn loads_ffmpeg(file: &File) -> bool {
    let cache = ReadCache::new(file);
    let Ok(parsed) = ElfFile64::<Endianness, _>::parse(&cache) else { return true };
    parsed.elf_dynamic_table().is_ok_and(|table| {
        let needed = table.iter().filter(|entry| entry.tag == elf::DT_NEEDED);
        needed.filter_map(|entry| table.string(entry).ok()).any(|name| name.starts_with(b"libav"))
    })
}

fn contains(mut file: File, mark: &[u8]) -> bool {
    use std::io::Seek;
    if file.rewind().is_err() {
        return false;
    }
    let mut window = vec![0; WINDOW];
    let mut kept = 0;
    loop {
        match file.read(&mut window[kept..]) {
            Ok(0) | Err(_) => return false,
            Ok(got) => {
                let have = kept + got;
                if window[..have].windows(mark.len()).any(|part| part == mark) {
                    return true;
                }
                // So much again that no mark is cut in two.
                let tail = have.saturating_sub(mark.len() - 1);
                window.copy_within(tail..have, 0);
                kept = have - tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn program(folder: &Path, source: &str, flags: &[&str]) -> std::path::PathBuf {
        let (input, output) = (folder.join("p.c"), folder.join("p"));
        std::fs::write(&input, source).expect("a source");
        let built = Command::new("cc").arg("-o").arg(&output).arg(&input).args(flags).status().expect("cc");
        assert!(built.success());
        output
    }

    #[test]
    fn only_ffmpegs_own_code_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let with = "#include <stdio.h>\nint main(void) { return puts(\"src/libavutil/mem.c\") < 0; }";
        let without = "#include <stdio.h>\nint main(void) { return puts(\"libavutil\") < 0; }";
        assert!(holds_ffmpeg(&program(folder.path(), with, &[])));
        assert!(holds_ffmpeg(&program(folder.path(), with, &["-static", "-s"])));
        assert!(!holds_ffmpeg(&program(folder.path(), without, &[])));
        assert!(!names_ffmpeg(&program(folder.path(), with, &[])));
        let named = "int av_frame_alloc(void) { return 0; } int main(void) { return av_frame_alloc(); }";
        assert!(names_ffmpeg(&program(folder.path(), named, &[])));
        assert!(!names_ffmpeg(&program(folder.path(), named, &["-s"])));
        let loads = ["-Wl,--no-as-needed", "-lavutil"];
        assert!(!holds_ffmpeg(&program(folder.path(), with, &loads)), "it loads the library");
        let text = folder.path().join("text");
        std::fs::write(&text, "libavutil/mem.c").expect("a text");
        assert!(!holds_ffmpeg(&text), "a text is no program");
        assert!(!holds_ffmpeg(folder.path()));
    }

    #[test]
    fn a_mark_across_two_windows_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        for before in [WINDOW - MARK.len(), WINDOW - 5, WINDOW - 1, WINDOW] {
            let mut bytes = vec![b'.'; before];
            bytes.extend_from_slice(MARK);
            std::fs::write(&path, bytes).expect("a file");
            assert!(contains(File::open(&path).expect("the file"), MARK), "with {before} bytes before it");
        }
    }
}
