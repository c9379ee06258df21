//! A fixed amount of one kind of work, for a tool that counts instructions: `benches/instructions.sh`.
#![allow(clippy::expect_used)] // a bench that cannot go on fails, and says why

mod work;

use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => {
            for (name, times, _) in &CASES {
                println!("{name} {times}");
            }
            return;
        }
        ["keys", folder] => {
            for algorithm in work::verify::ALGORITHMS {
                work::verify::write(Path::new(folder), algorithm);
            }
            return;
        }
        ["run", case, times, folder] => {
            let (_, _, run) = CASES.iter().find(|(name, ..)| *name == case).expect("a case");
            run(times.parse().expect("a number"), Path::new(folder))
        }
        // `cargo bench` starts every bench; this one has nothing to say there.
        _ => return,
    };
    println!("{done}");
}

/// Does its work so many times; the number of items (frames, tokens) that were handled.
type Run = fn(u64, &Path) -> u64;

/// What is counted, and how many times at least.
const CASES: [(&str, u64, Run); 9] = [
    ("scan-16", 2, |times, _| scan(times, 16, READ)),
    ("scan-1024", 20, |times, _| scan(times, 1024, READ)),
    ("scan-1024-in-100", 5, |times, _| scan(times, 1024, 100)),
    ("verify-HS256", 500, |times, folder| verify(times, "HS256", folder)),
    ("verify-ES256", 128, |times, folder| verify(times, "ES256", folder)),
    ("verify-RS256", 128, |times, folder| verify(times, "RS256", folder)),
    ("relay-64", 2000, |times, _| work::relay::relay(64, 1, times)),
    ("relay-1024x63", 200, |times, _| work::relay::relay(1024, 63, times)),
    ("relay-65000", 200, |times, _| work::relay::relay(65_000, 1, times)),
];

fn scan(times: u64, payload: usize, chunk: usize) -> u64 {
    let frames = work::scan::frames(payload, 1 << 20);
    (0..times).map(|_| work::scan::scan(std::hint::black_box(&frames), chunk)).sum()
}

fn verify(times: u64, algorithm: &str, folder: &Path) -> u64 {
    let good = work::verify::Case::read(folder, algorithm).verify(times);
    assert_eq!(good, times, "every token is good");
    good
}

const READ: usize = 64 * 1024;
