//! Standard input as messages for the client to send. Called by `portcullis client --stdin`.

use tokio::sync::mpsc;

/// Standard input, line by line, at most 64 KiB each. Read by a thread of its own, which does not hold up the end of
/// the process.
pub fn stdin_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        use std::io::{BufRead as _, Read as _};
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let line = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

const MAX_LINE: u64 = 64 * 1024;
