//! What of RFC 6455 is ours: frame heads, the scanner, Close frames, the upgrade handshake, and the few messages that are read.

pub mod close;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod scan;

pub use close::{CloseFrame, CloseText};
pub use frame::{Extensions, Head, Opcode, Sender, Violation};
pub use scan::{Ruling, Scanner, Step};
