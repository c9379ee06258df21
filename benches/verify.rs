//! Verification of a token: header, claims, rules and signature, as the gateway asks for it at an upgrade.

mod work;

use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

#[divan::bench(args = work::verify::ALGORITHMS)]
fn token(bencher: Bencher<'_, '_>, algorithm: &str) {
    let case = work::verify::Case::new(algorithm);
    assert_eq!(case.verify(64), 64);
    bencher.bench(|| black_box(&case).verify(1));
}
