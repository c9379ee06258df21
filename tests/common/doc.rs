//! Configs out of the documents: parts of one are completed, and the files that they name are there.

use std::path::Path;

use super::certificate::Authority;
use super::token::SECRET;

/// Writes `block` as `config.toml` into a folder, with a listener, an issuer and a route if it has none, and with every file
/// that one of its lines names. Paths from the root are taken into the folder.
pub fn write(block: &str, folder: &Path) {
    let certs = folder.join("certs");
    std::fs::create_dir_all(&certs).expect("certs");
    let authority = Authority::new();
    authority.write(&certs);
    std::fs::write(certs.join("token.secret"), SECRET).expect("token.secret");
    let has = |section: &str| {
        block.lines().any(|line| line == format!("[[{section}]]") || line.starts_with(&format!("{section} = ")))
    };
    let mut text = String::new();
    for line in block.lines() {
        match line.split_once(" = ").filter(|(key, _)| key.ends_with("_file") || key.ends_with("_ca")) {
            Some((key, path)) => {
                let path = path.trim_matches('"').trim_start_matches('/');
                let file = folder.join(path);
                std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
                std::fs::write(&file, content(key, &authority)).expect("a file");
                text.push_str(&[key, " = \"", path, "\"\n"].concat());
            }
            None => text.push_str(&[line, "\n"].concat()),
        }
    }
    for (section, frame) in FRAME {
        if !has(section) {
            text.push_str(frame);
        }
    }
    std::fs::write(folder.join("config.toml"), text).expect("config.toml");
}

/// What a file holds that stands under this key.
fn content(key: &str, authority: &Authority) -> String {
    match key {
        "secret_file" => SECRET.to_owned(),
        "jwks_file" => JWK_SET.to_owned(),
        "pem_file" => authority.leaf(&["issuer.test"]).0,
        key if key.ends_with("_ca") => authority.leaf(&["ca.test"]).0,
        _ => "Bearer something\n".to_owned(),
    }
}

/// What a config must have, and a part of one may leave out.
const FRAME: [(&str, &str); 3] = [
    ("listener", "[[listener]]\nname = \"frame\"\naddress = \"127.0.0.1:0\"\nplaintext = true\n"),
    (
        "issuer",
        "[[issuer]]\nname = \"frame\"\n[[issuer.key]]\nalgorithm = \"HS256\"\nsecret_file = \"certs/token.secret\"\n",
    ),
    ("route", "[[route]]\nname = \"frame\"\nupstream = \"ws://127.0.0.1:9001\"\n"),
];

/// The public key of RFC 8037, appendix A.2.
const JWK_SET: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
