//! What can be wrong with the probes and admin listeners, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::listen::ListenError;

/// Why a probes or admin listener cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be bound, or its certificate not be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The Unix socket cannot be made.
    #[error("[admin]: cannot listen on unix:{path}: {detail}", path = path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why, and what to do.
        detail: String,
    },
    /// The certificates by which clients are known cannot be used.
    #[error("[admin] client_ca {path}: {detail}", path = path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

impl AdminError {
    pub(super) fn socket(path: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => ": another process listens there, or it is no socket: end it or take it away",
            io::ErrorKind::NotFound => ": its folder must be there",
            io::ErrorKind::PermissionDenied => ": the gateway's user must be able to write to its folder",
            _ => "",
        };
        Self::Socket { path: path.to_owned(), detail: format!("{error}{remedy}") }
    }
}
