//! `avleak top`, in a real terminal, of processes that run.

use std::process::Command;

use avleak_tests::avleak::{LIMIT, Run, Started};
use avleak_tests::process::{self, Running};
use avleak_tests::tmux::{PROMPT, Terminal};
use avleak_tests::{avleak_binary, avleak_library, programs, scratch, truth};
use rustix::process::{Pid, Signal, kill_process};

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("a signal");
}

/// The number behind a word that the server says.
fn said(running: &mut Running, word: &str) -> i32 {
    let line = running.wait_for_line(word);
    line.trim().rsplit_once(' ').and_then(|(_, number)| number.parse().ok()).expect("a number")
}

fn server() -> (Started, i32) {
    let mut started = Run::new([programs::program("live_server")]).start();
    let pid = said(&mut started.running, "ready ");
    (started, pid)
}

fn lose(started: &mut Started, pid: i32) -> u64 {
    signal(pid, Signal::USR1);
    u64::try_from(said(&mut started.running, "lost ")).expect("a number")
}

/// As it is typed into the shell. The server says that it is ready before its analyzer's door is open.
fn top(terminal: &Terminal, arguments: &str) {
    let avleak = avleak_binary();
    let avleak = avleak.display();
    terminal.run(&format!("clear; {avleak} top {arguments}; echo \"left with $?\""));
}

/// A server, and a terminal that shows it.
fn shown(size: (u32, u32), options: &str) -> (Started, i32, Terminal) {
    let (started, pid) = server();
    let terminal = Terminal::start(size.0, size.1);
    loop {
        top(&terminal, &format!("{pid} {options}"));
        let screen = terminal.wait_until("a screen or an error", |screen| {
            screen.contains("live frame") || screen.contains("left with 2")
        });
        if screen.contains("live frame") {
            return (started, pid, terminal);
        }
        // It has armed, and its analyzer is on the way.
        assert!(screen.contains("the analyzer of pid") || screen.contains("has not used FFmpeg yet"), "{screen}");
    }
}

/// The first row that names this function, as words: live, …
fn row<'a>(screen: &'a str, function: &str) -> Option<Vec<&'a str>> {
    let names = |line: &&str| line.split_whitespace().any(|word| word == function);
    let line = screen.lines().find(names)?;
    Some(line.split_whitespace().collect())
}

/// The terminal is as the shell needs it.
fn assert_given_back(terminal: &Terminal, with: &str) {
    let screen = terminal.wait_for(with);
    assert!(!screen.contains("avleak top ") || !screen.contains("live frames"), "{screen}");
    terminal.run("clear; stty -a | tr ';' '\\n' | grep -wo -e '-\\?icanon' -e '-\\?echo'");
    terminal.wait_until("a terminal that echoes", |screen| {
        let words: Vec<&str> = screen.split_whitespace().collect();
        words.contains(&"icanon") && words.contains(&"echo")
    });
}

#[test]
fn a_server_is_watched_checked_and_explained() {
    let (mut started, pid, terminal) = shown((120, 34), "--refresh 250ms");
    let screen = terminal.wait_for("frame_shell ← frame_with_pixels ← main");
    assert!(screen.contains(&format!("live_server (pid {pid})")) && screen.contains("not checked yet"), "{screen}");
    // What the main thread holds: twenty, from the first look to the last.
    terminal.wait_until("the frames that are held", |screen| {
        row(screen, "main").is_some_and(|row| row[0] == "20" && row.contains(&"AVFrame"))
    });
    // What is lost comes up without a check, and is not called so.
    let lost = lose(&mut started, pid);
    let screen = terminal.wait_until("what came", |screen| {
        row(screen, "lose").is_some_and(|row| row[..2] == [lost.to_string(), format!("+{lost}")])
    });
    assert!(screen.contains("not checked yet"), "{screen}");
    terminal.keys(&["c"]);
    let screen = terminal.wait_for("stood still");
    assert!(screen.contains(&format!("{lost} frames leaked")), "{screen}");
    let judged = row(&screen, "lose").expect("the row");
    assert!(
        judged[2..].contains(&lost.to_string().as_str()) && judged.iter().any(|word| word.ends_with("iB")),
        "{judged:?}"
    );
    // A stack is opened from the first row by what is lost.
    terminal.keys(&["o", "Enter"]);
    let screen = terminal.wait_for("definitely lost");
    for part in [
        "allocated at",
        "av_frame_alloc",
        "▸ frame_shell",
        "lose",
        "live_server.c",
        "was ever freed",
        "buffers",
        "group ",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    // The next check says more, and the open stack follows.
    let lost = lose(&mut started, pid);
    terminal.keys(&["c"]);
    terminal.wait_for(&format!("{lost} AVFrame definitely lost"));
    terminal.keys(&["Escape"]);
    terminal.wait_for("ALLOCATED IN");
    terminal.keys(&["/"]);
    terminal.wait_for("filter: ▏");
    terminal.keys(&["l", "o", "s", "e"]);
    terminal.wait_until("what is filtered", |screen| row(screen, "lose").is_some() && row(screen, "holder").is_none());
    terminal.keys(&["Escape"]);
    terminal.wait_until("all rows", |screen| row(screen, "holder").is_some());
    terminal.keys(&["?"]);
    terminal.wait_for("keys and columns");
    terminal.keys(&["x"]);
    terminal.wait_for("ALLOCATED IN");
    // Its end is told of, and what was last known stays.
    signal(pid, Signal::TERM);
    let screen = terminal.wait_for("ended: this is how it was");
    assert!(row(&screen, "lose").is_some(), "{screen}");
    terminal.keys(&["q"]);
    assert_given_back(&terminal, "left with 0");
    truth::check(&started.finish());
}

/// The process goes on as if nobody had looked, and is checked by the interval alone.
#[test]
fn checks_come_at_an_interval_and_looks_stop_nothing() {
    let (mut started, pid, terminal) = shown((100, 24), "--refresh 250ms --check-interval 500ms");
    terminal.wait_for("3 checks");
    let lost = lose(&mut started, pid);
    terminal.wait_for(&format!("{lost} frames leaked"));
    terminal.keys(&["i"]);
    terminal.wait_for("check every: 500ms");
    terminal.keys(&["BSpace", "BSpace", "BSpace", "BSpace", "BSpace", "Enter"]);
    terminal.wait_until("no interval", |screen| !screen.contains("check every") && !screen.contains(", check 500ms"));
    terminal.keys(&["C-c"]);
    assert_given_back(&terminal, "left with 0");
    signal(pid, Signal::TERM);
    truth::check(&started.finish());
}

#[test]
fn a_terminal_is_given_back_whatever_happens() {
    let (started, pid, terminal) = shown((120, 34), "--refresh 250ms");
    // As small as it gets, and large again.
    for (columns, lines) in [(40, 10), (10, 3), (1, 1), (200, 50), (120, 34)] {
        terminal.resize(columns, lines);
        if columns >= 40 {
            terminal.wait_until("the table", |screen| {
                // Callers stand where there is room for them.
                screen.contains("LIVE") && (columns < 100 || screen.contains("main"))
            });
        }
    }
    terminal.keys(&["C-z"]);
    assert_given_back(&terminal, "Stopped");
    terminal.run("fg");
    terminal.wait_for("live frame");
    let found = process::run(Command::new("pgrep").args(["-f", &format!("avleak top {pid}")]), LIMIT);
    let top = found.text().trim().parse().unwrap_or_else(|_| panic!("no avleak top: {}", found.text()));
    signal(top, Signal::TERM);
    // Said by the shell: the rest of the line ran when it was stopped.
    assert_given_back(&terminal, "Terminated");
    signal(pid, Signal::TERM);
    truth::check(&started.finish());
}

#[test]
fn who_has_nothing_to_show_says_so_and_what_to_do() {
    let (started, pid, terminal) = shown((120, 34), "");
    terminal.keys(&["q"]);
    terminal.wait_for("left with 0");
    let failed = |arguments: &[&str], parts: &[&str]| {
        let done = process::run(Command::new(avleak_binary()).arg("top").args(arguments), LIMIT);
        assert!(done.code() == 2 && parts.iter().all(|part| done.stderr.contains(part)), "{}", done.stderr);
        assert!(done.stdout.is_empty(), "{}", done.text());
    };
    let pid_text = pid.to_string();
    failed(&[&pid_text], &["stdout is no terminal", &format!("avleak check {pid}")]);
    failed(&["--refresh", "soon", &pid_text], &["soon", "100ms"]);
    failed(&["0"], &["0"]);
    // The same words as of `avleak check`.
    for other in [i32::MAX.to_string(), std::process::id().to_string()] {
        let check = process::run(Command::new(avleak_binary()).args(["check", &other]), LIMIT);
        let words = check.stderr.trim().strip_prefix("avleak: ").expect("a line").to_owned();
        top(&terminal, &other);
        let screen = terminal.wait_for("left with 2");
        assert!(same_words(&screen, &words), "{words}: {screen}");
    }
    signal(pid, Signal::TERM);
    truth::check(&started.finish());
}

/// The line is on the screen, wherever that breaks it.
fn same_words(screen: &str, line: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<String>();
    words(screen).contains(&words(line))
}

/// Without a PID there is a choice, where there are several (of other tests too).
#[test]
fn one_of_several_is_chosen() {
    let (first, first_pid) = server();
    let (second, second_pid, terminal) = shown((120, 60), "");
    terminal.keys(&["q"]);
    terminal.wait_for("left with 0");
    top(&terminal, "");
    terminal.wait_until("both of them", |screen| {
        screen.contains("choose a process")
            && [first_pid, second_pid].iter().all(|pid| screen.contains(&format!(" {pid}  live_server")))
    });
    // Others come and go meanwhile: whoever is met instead is left again.
    for pid in [second_pid, first_pid] {
        let mut screen = terminal.wait_for("choose a process");
        loop {
            let rows: Vec<&str> = screen.lines().skip_while(|line| !line.contains("LAST CHECK")).skip(1).collect();
            let wanted = rows.iter().position(|row| row.contains(&format!(" {pid}  live_server")));
            terminal.keys(&["Home"]);
            for _ in 0..wanted.unwrap_or(0) {
                terminal.keys(&["Down"]);
            }
            terminal.keys(&["Enter"]);
            screen = terminal.wait_for("ALLOCATED IN");
            if screen.contains(&format!("(pid {pid})")) {
                break;
            }
            terminal.keys(&["Escape"]);
            screen = terminal.wait_for("choose a process");
        }
        terminal.keys(&["Escape"]);
    }
    terminal.wait_for("choose a process");
    terminal.keys(&["q"]);
    assert_given_back(&terminal, "left with 0");
    for (started, pid) in [(first, first_pid), (second, second_pid)] {
        signal(pid, Signal::TERM);
        truth::check(&started.finish());
    }
}

/// The analyzer is killed under it: another one takes its place, and the screen goes on.
#[test]
fn it_goes_on_with_the_next_analyzer() {
    let (mut started, pid, terminal) = shown((120, 34), "--refresh 250ms");
    let lost = lose(&mut started, pid);
    terminal.wait_until("what came", |screen| row(screen, "lose").is_some_and(|row| row[0] == lost.to_string()));
    let own = started.running.pid().to_string();
    let analyzers = process::run(Command::new("pgrep").args(["-P", &own, "-x", "avleak-analyzer"]), LIMIT).text();
    signal(analyzers.trim().parse().expect("an analyzer"), Signal::KILL);
    let lost = lose(&mut started, pid);
    terminal.wait_until("what came then", |screen| {
        row(screen, "lose").is_some_and(|row| row[0] == lost.to_string()) && !screen.contains("no answer")
    });
    terminal.keys(&["c"]);
    terminal.wait_for(&format!("{lost} frames leaked"));
    terminal.keys(&["q"]);
    terminal.wait_for("left with 0");
    signal(pid, Signal::TERM);
    truth::check(&started.finish());
}

/// A program chooses its own name. With a bare preload, too.
#[test]
fn a_name_cannot_drive_the_terminal() {
    let folder = scratch();
    let hostile = "\u{1b}]0;owned\u{7}\u{1b}[31mname";
    let program = folder.path().join(hostile);
    std::fs::copy(programs::program("live_server"), &program).expect("a copy");
    let mut command = Command::new(&program);
    command.env("LD_PRELOAD", avleak_library()).env("AVLEAK_OPTIONS", "quiet=1").current_dir(folder.path());
    let mut running = process::start(&mut command, LIMIT);
    let pid = said(&mut running, "ready ");
    let terminal = Terminal::start(120, 34);
    let written = terminal.record();
    top(&terminal, &pid.to_string());
    let screen = terminal.wait_for("live frame");
    assert!(screen.contains("]0;owned") && screen.contains("[31mname"), "{screen}");
    terminal.keys(&["c"]);
    terminal.wait_for("stood still");
    terminal.keys(&["Enter"]);
    terminal.wait_for("allocated at");
    terminal.keys(&["q"]);
    terminal.wait_for(PROMPT);
    let bytes = std::fs::read(written).expect("what was written");
    let has = |part: &str| bytes.windows(part.len()).any(|window| window == part.as_bytes());
    assert!(has("]0;owned") && !has("\u{1b}]0;owned"), "the name reached the terminal as it is");
    signal(pid, Signal::TERM);
    assert_eq!(running.finish().code(), 0);
}
