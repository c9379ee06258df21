//! What of RFC 6455 is ours: frame heads, the scanner, Close frames, and the upgrade handshake.

pub mod close;
pub mod frame;
pub mod handshake;
pub mod scan;

pub use close::{CloseFrame, CloseText};
pub use frame::{Extensions, Head, Opcode, Sender, Violation};
pub use scan::{Ruling, Scanner, Step};
