//! RSA signatures whose padded block a test decides: the private key's raw operation (RFC 8017, section 5.2.1), and the two
//! encodings, good and bad.

use aws_lc_rs::digest::{self, digest};
use num_bigint::BigUint;

use super::keys::{keys, numbers, pkcs8};

/// The length of the modulus, bytes.
pub const LENGTH: usize = 256;

/// The private half of the test's RSA key.
pub struct Private {
    pub n: BigUint,
    p: BigUint,
    q: BigUint,
    dp: BigUint,
    dq: BigUint,
    qi: BigUint,
}

impl Private {
    pub fn new() -> Self {
        let numbers: Vec<BigUint> = numbers(&pkcs8(&keys().rsa)).iter().map(|n| BigUint::from_bytes_be(n)).collect();
        let [_, n, _, _, p, q, dp, dq, qi] = <[BigUint; 9]>::try_from(numbers).expect("nine numbers");
        Self { n, p, q, dp, dq, qi }
    }

    /// The signature whose padded block is `block`.
    pub fn sign(&self, block: &[u8]) -> Vec<u8> {
        assert_eq!(block.len(), LENGTH);
        let message = BigUint::from_bytes_be(block);
        assert!(message < self.n, "the block does not fit the modulus");
        let (one, two) = (message.modpow(&self.dp, &self.p), message.modpow(&self.dq, &self.q));
        let difference = (&self.p + &one - &two % &self.p) % &self.p;
        bytes(&(&two + (difference * &self.qi % &self.p) * &self.q), LENGTH)
    }
}

/// The number in so many bytes.
pub fn bytes(number: &BigUint, length: usize) -> Vec<u8> {
    let short = number.to_bytes_be();
    [vec![0; length - short.len()], short].concat()
}

/// What says that the hash is SHA-256's (RFC 8017, section 9.2, note 1).
pub const SHA256: &[u8] =
    &[0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20];

/// `00 kind FF.. 00 rest` with as much padding as fits.
fn block(kind: u8, filler: u8, rest: &[u8]) -> Vec<u8> {
    let padding = LENGTH - 3 - rest.len();
    [&[0, kind][..], &vec![filler; padding], &[0], rest].concat()
}

/// The good block of EMSA-PKCS1-v1_5 for what is signed.
pub fn pkcs1(signed: &[u8]) -> Vec<u8> {
    block(1, 0xff, &[SHA256, digest(&digest::SHA256, signed).as_ref()].concat())
}

/// Blocks that are nearly that.
pub fn bad_pkcs1(signed: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hash = digest(&digest::SHA256, signed).as_ref().to_vec();
    let good = pkcs1(signed);
    let info = [SHA256, &hash].concat();
    let with = |at: usize, byte: u8| {
        let mut block = good.clone();
        block[at] = byte;
        block
    };
    let no_null = [&[0x30, 0x2f, 0x30, 0x0b][..], &SHA256[4..15], &[0x04, 0x20], &hash].concat();
    let long_form = [&[0x30, 0x81, 0x31][..], &SHA256[2..], &hash].concat();
    let endless = [&[0x30, 0x80][..], &SHA256[2..], &hash, &[0, 0]].concat();
    let garbage_in_null = [&[0x30, 0x35, 0x30, 0x11][..], &SHA256[4..15], &[5, 4, 1, 2, 3, 4, 4, 0x20], &hash].concat();
    let sha1 = digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, signed);
    let sha1_info =
        [&[0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0, 4, 0x14][..], sha1.as_ref()]
            .concat();
    let other = digest(&digest::SHA256, b"another token");
    // Little padding, the hash, and room for whatever makes a root (Bleichenbacher, 2006; CVE-2006-4339).
    let behind = |padding: usize| {
        let head = [&[0, 1][..], &vec![0xff; padding], &[0], &info].concat();
        [head.clone(), vec![0x5a; LENGTH - head.len()]].concat()
    };
    let before = {
        let tail = [&[0][..], &info].concat();
        let middle = LENGTH - 2 - 8 - tail.len();
        [&[0, 1][..], &[0xff; 8], &vec![0x5a; middle], &tail].concat()
    };
    vec![
        ("a block of type 2", with(1, 2)),
        ("a block of type 0", with(1, 0)),
        ("a byte of padding that is not FF", with(2, 0xfe)),
        ("the last byte of padding is not FF", with(LENGTH - info.len() - 2, 0x7f)),
        ("a byte of padding is 0", with(100, 0)),
        ("nothing between padding and hash", with(LENGTH - info.len() - 1, 0xff)),
        ("padding of zeros", block(1, 0, &info)),
        ("padding of AA", block(1, 0xaa, &info)),
        ("no algorithm before the hash", block(1, 0xff, &hash)),
        ("the algorithm without its NULL", block(1, 0xff, &no_null)),
        ("a length in the long form", block(1, 0xff, &long_form)),
        ("a length that is not said", block(1, 0xff, &endless)),
        ("something in the NULL", block(1, 0xff, &garbage_in_null)),
        ("SHA-1 in its place", block(1, 0xff, &sha1_info)),
        ("SHA-512's name before SHA-256's hash", with(LENGTH - info.len() + 14, 3)),
        ("the hash of something else", block(1, 0xff, &[SHA256, other.as_ref()].concat())),
        ("the hash cut by a byte", block(1, 0xff, &info[..info.len() - 1])),
        ("a byte behind the hash", block(1, 0xff, &[info.as_slice(), &[0]].concat())),
        ("two bytes of NULL behind the hash", block(1, 0xff, &[info.as_slice(), &[5, 0]].concat())),
        ("eight bytes of padding, the rest behind the hash", behind(8)),
        ("no padding, the rest behind the hash", behind(0)),
        ("all but two bytes of padding, two behind", behind(LENGTH - info.len() - 5)),
        ("the rest between padding and hash", before),
        ("the hash alone, at the end of zeros", [vec![0; LENGTH - hash.len()], hash.clone()].concat()),
        ("the last bit of the hash", with(LENGTH - 1, good[LENGTH - 1] ^ 1)),
    ]
}

/// EMSA-PSS (RFC 8017, section 9.1.1) with SHA-256, MGF1 over `mask_hash`, and a salt of so many bytes.
pub fn pss(signed: &[u8], salt: usize, mask_hash: &'static digest::Algorithm, trailer: u8) -> Vec<u8> {
    let salt = vec![0x5a; salt];
    let hash = digest(&digest::SHA256, signed);
    let inner = digest(&digest::SHA256, &[&[0; 8][..], hash.as_ref(), &salt].concat());
    let zeros = LENGTH - inner.as_ref().len() - salt.len() - 2;
    let data = [vec![0; zeros], vec![1], salt].concat();
    let mask = mgf1(inner.as_ref(), data.len(), mask_hash);
    let mut masked: Vec<u8> = data.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    masked[0] &= 0x7f;
    [masked, inner.as_ref().to_vec(), vec![trailer]].concat()
}

fn mgf1(seed: &[u8], length: usize, hash: &'static digest::Algorithm) -> Vec<u8> {
    let blocks = (0_u32..).flat_map(|counter| digest(hash, &[seed, &counter.to_be_bytes()].concat()).as_ref().to_vec());
    blocks.take(length).collect()
}

/// Encodings that are nearly EMSA-PSS with a salt as long as the hash (RFC 7518, section 3.5).
pub fn bad_pss(signed: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut bad: Vec<(String, Vec<u8>)> = [0, 8, 20, 31, 33, 48, 64, LENGTH - 34]
        .into_iter()
        .map(|salt| (format!("a salt of {salt} bytes"), pss(signed, salt, &digest::SHA256, 0xbc)))
        .collect();
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut block = pss(signed, 32, &digest::SHA256, 0xbc);
        change(&mut block);
        block
    };
    bad.push(("MGF1 over SHA-1".into(), pss(signed, 32, &digest::SHA1_FOR_LEGACY_USE_ONLY, 0xbc)));
    bad.push(("MGF1 over SHA-512".into(), pss(signed, 32, &digest::SHA512, 0xbc)));
    bad.push(("another trailer".into(), pss(signed, 32, &digest::SHA256, 0xcc)));
    bad.push(("a bit in the padding".into(), changed(|block| block[3] ^= 1)));
    bad.push(("a bit in the salt".into(), changed(|block| block[LENGTH - 34] ^= 1)));
    bad.push(("a bit in the hash".into(), changed(|block| block[LENGTH - 2] ^= 1)));
    bad.push(("of another token".into(), pss(b"another token", 32, &digest::SHA256, 0xbc)));
    bad
}
