//! Real leaks: Debian's unpaper, which no one here wrote, and the demo server of the README.

use std::path::Path;

use avleak_tests::avleak::Run;
use avleak_tests::truth::{functions, groups, number};
use avleak_tests::{media, process, programs, scratch, truth};

/// unpaper's arguments for `sheets` copies of the scanned page in `folder`.
fn unpaper(folder: &Path, sheets: u32) -> Vec<String> {
    for sheet in 1..=sheets {
        std::fs::copy(media("page.pgm"), folder.join(format!("in{sheet}.pgm"))).expect("a copy of the page");
    }
    let mut command = vec!["unpaper".to_owned(), "--overwrite".into()];
    command.extend(if sheets == 1 { ["in1.pgm", "out1.pgm"] } else { ["in%d.pgm", "out%d.pgm"] }.map(String::from));
    command
}

#[test]
fn unpaper_loses_two_frames_per_sheet() {
    for sheets in [1, 3] {
        let (plain, watched) = (scratch(), scratch());
        let command = unpaper(plain.path(), sheets);
        let mut alone = std::process::Command::new(&command[0]);
        process::run(alone.args(&command[1..]).current_dir(plain.path()), std::time::Duration::from_secs(60))
            .expect_success();

        let command = unpaper(watched.path(), sheets);
        let outcome = Run::new(command).current_dir(watched.path()).finish();
        assert_eq!(outcome.finished.code(), 1, "{}", outcome.finished.stderr);
        let report = outcome.report();
        assert_eq!(report["verdict"], "leaks");
        assert_eq!(number(&report["leaks"]["frames"]), u64::from(2 * sheets), "{report:#}");
        assert!(number(&report["leaks"]["pinned_bytes"]) >= u64::from(2 * sheets) * 620 * 877, "{}", report["leaks"]);
        for sheet in 1..=sheets {
            let name = format!("out{sheet}.pgm");
            let [one, other] =
                [&plain, &watched].map(|folder| std::fs::read(folder.path().join(&name)).expect("a page"));
            assert!(one == other, "{name} differs under avleak");
        }
    }
}

#[test]
fn the_demo_server() {
    let (program, video) = (programs::program("demo_server"), media("sample.mp4"));
    let clean = Run::new([program.as_os_str(), video.as_os_str(), "clean".as_ref()]).finish();
    truth::check(&clean);
    let outcome = Run::new([program.as_os_str(), video.as_os_str()]).finish();
    truth::check(&outcome);
    let leak = groups(outcome.report(), "AVFrame").find(|group| group["leak"] == true).expect("the late pictures");
    assert_eq!(number(&leak["count"]), 7);
    assert!(functions(&leak["stack"]).contains(&"decode_packet"), "{:#}", leak["stack"]);
    let siblings: u64 =
        leak["freed_elsewhere"].as_array().into_iter().flatten().map(|site| number(&site["count"])).sum();
    assert!(siblings >= 293, "the pictures that were sent were freed in work(): {leak:#}");
}
