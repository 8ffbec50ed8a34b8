//! A streaming server with everything that looks like growth and is none, leaky and clean: the short form of `make soak`.

use std::path::Path;
use std::time::Duration;

use avleak_tests::avleak::{Run, Started};
use avleak_tests::truth::{self, number};
use avleak_tests::{media, programs};
use serde_json::Value;

/// Streams that connect anew every two seconds and are quiet for one in three; one in so many frames leaks.
fn server(leak_every: u32, alerts: &Path) -> Started {
    let video = media("short.mp4");
    let file = alerts.to_str().expect("a path");
    let words = ["--streams", "4", "--frames", "200", "--reconnect", "50", "--breath", "3", "--leak-every"];
    let mut command = vec![programs::program("soak_server").into_os_string(), video.into_os_string()];
    command.extend(words.map(Into::into));
    command.push(leak_every.to_string().into());
    let options = ["--check-interval", "500ms", "--alert-frames", "3", "--alert-growth", "1", "--alert-file", file];
    Run::new(command).options(options).limit(Duration::from_secs(300)).start()
}

fn alerts(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("an alert")).collect()
}

#[test]
fn a_server_that_leaks_now_and_then_is_told_from_its_clean_twin() {
    let folder = avleak_tests::scratch();
    let (leaky_file, clean_file) = (folder.path().join("leaky"), folder.path().join("clean"));
    let (leaky, clean) = (server(40, &leaky_file), server(0, &clean_file));
    let (leaky, clean) = (leaky.finish(), clean.finish());
    truth::check(&leaky);
    truth::check(&clean);
    assert_eq!(number(&leaky.report()["leaks"]["frames"]), 20);
    let (told, falsely) = (alerts(&leaky_file), alerts(&clean_file));
    let message = told.first().and_then(|alert| alert["message"].as_str()).unwrap_or_default();
    assert!(message.contains("AVFrame definitely lost, allocated in send_snapshot"), "{told:#?}");
    assert!(falsely.is_empty(), "{falsely:#?}");
}
