//! Which 32 bytes are no Ed25519 key (RFC 8032, section 5.1), though a signature can be checked with them.

use super::KeyError;

/// Refuses points of small order: there are signatures that are good by these for any message, or for one in eight, and
/// they need no private key (RFC 8725, section 3.4). Also refuses points that are not written as the standard has it.
pub(super) fn check(key: [u8; 32]) -> Result<(), KeyError> {
    let mut y = key;
    // The sign of x: a point and its opposite have the same order.
    y[31] &= 0x7f;
    if SMALL.contains(&y) {
        return Err(KeyError("anybody could sign for this Ed25519 key: it is a point of small order".into()));
    }
    // From p = 2^255 - 19 on the same numbers come once more (RFC 8032, section 5.1.3).
    if y[0] >= 0xed && y[1..31].iter().all(|byte| *byte == 0xff) && y[31] == 0x7f {
        return Err(KeyError(
            "the key is damaged: its number is not below 2^255 - 19 (RFC 8032, section 5.1.3)".into(),
        ));
    }
    Ok(())
}

/// The y of all points of order 1, 2, 4 and 8, little-endian: 0, 1, p - 1, and the two of order 8.
const SMALL: [[u8; 32]; 5] = [
    [0; 32],
    bytes(1, 0, 0),
    bytes(0xec, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

const fn bytes(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut all = [middle; 32];
    all[0] = first;
    all[31] = last;
    all
}
