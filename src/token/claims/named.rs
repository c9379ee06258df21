//! Which claim is meant: a member by its name, or a place inside by a JSON pointer (RFC 6901).

use serde_json::{Map, Value};

/// A member's name, or a JSON pointer into the claims if it begins with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim(String);

impl Claim {
    /// Reads `sub` or `/realm_access/roles`; `None` for an empty name and for a pointer with a bad escape.
    pub fn parse(text: &str) -> Option<Self> {
        let good = |rest: &str| rest.starts_with(['0', '1']);
        let escaped_well = !text.starts_with('/') || text.split('~').skip(1).all(good);
        (!text.is_empty() && escaped_well).then(|| Self(text.to_owned()))
    }

    /// As it stands in the config.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The claim's value. A pointer steps into objects and, by digits without a zero in front, into lists; never into
    /// a string.
    pub fn find<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        let Some(path) = self.0.strip_prefix('/') else { return claims.get(&self.0) };
        let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let value = claims.get(&first.replace("~1", "/").replace("~0", "~"))?;
        match rest {
            None => Some(value),
            Some(rest) => value.pointer(&format!("/{rest}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_found_by_its_name_or_by_a_pointer() {
        let claims = json!({
            "sub": "ann", "a/b": 1, "m~n": 2, "": 3, "~1": 4, "/x": 5,
            "https://a.example/roles": ["r"],
            "realm": {"roles": ["x", {"y": 7}], "": 8, "~01": 9},
            "text": "{\"in\":1}"
        });
        let claims = claims.as_object().unwrap();
        for (text, expected) in [
            ("sub", Some(json!("ann"))),
            ("/sub", Some(json!("ann"))),
            ("https://a.example/roles", Some(json!(["r"]))),
            ("a/b", Some(json!(1))),
            ("/a~1b", Some(json!(1))),
            ("/m~0n", Some(json!(2))),
            ("m~n", Some(json!(2))),
            ("/", Some(json!(3))),
            ("/~01", Some(json!(4))),
            ("/~1x", Some(json!(5))),
            ("/realm/roles/0", Some(json!("x"))),
            ("/realm/roles/1/y", Some(json!(7))),
            ("/realm/", Some(json!(8))),
            ("/realm/~001", Some(json!(9))),
            ("/realm/roles/00", None),
            ("/realm/roles/-", None),
            ("/realm/roles/2", None),
            ("/realm/other", None),
            ("/text/in", None),
            ("/sub/0", None),
            ("Sub", None),
        ] {
            assert_eq!(Claim::parse(text).unwrap().find(claims), expected.as_ref(), "{text}");
        }
        for text in ["", "/a~", "/a~2", "/~x/b"] {
            assert_eq!(Claim::parse(text), None, "{text}");
        }
        assert!(Claim::parse("m~x").is_some(), "a name has no escapes");
    }
}
