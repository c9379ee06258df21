use http::header::{AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn access_token() -> Vec<Carrier> {
    vec![Carrier::Query("access_token".into())]
}

fn headers(name: &HeaderName, values: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-other", HeaderValue::from_static("kept"));
    for value in values {
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

fn values(headers: &HeaderMap, name: &HeaderName) -> Vec<Vec<u8>> {
    headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
}

/// Headers, the token in them, the headers that are left.
type HeaderRow = (&'static [&'static [u8]], Option<&'static str>, &'static [&'static [u8]]);

fn reason(taken: Result<Taken, Denial>) -> (&'static str, &'static str) {
    let denial = taken.expect_err("must be refused");
    (denial.public.as_str(), denial.reason)
}

#[test]
fn the_query_loses_the_token_and_nothing_else() {
    // Query, then what is left of it (None: the question mark goes too), then the token.
    let rows: &[(&str, Option<&str>, &str)] = &[
        ("access_token=T", None, "T"),
        ("access_token=T&a=1", Some("a=1"), "T"),
        ("a=1&access_token=T", Some("a=1"), "T"),
        ("a=1&access_token=T&b=2", Some("a=1&b=2"), "T"),
        ("access%5Ftoken=T&a=1", Some("a=1"), "T"),
        ("%61ccess%5ftoken=T", None, "T"),
        ("access_token=T&access_token=T", None, "T"),
        ("access_token=T&a=1&access%5Ftoken=T", Some("a=1"), "T"),
        ("access_token=&a=1&access_token=T", Some("a=1"), "T"),
        ("access_token&a=1&access_token=T", Some("a=1"), "T"),
        ("access_token=a%2Eb%2ec", None, "a.b.c"),
        ("access_token=a.b%2Ec&access_token=a.b.c", None, "a.b.c"),
        ("access_token=a=b", None, "a=b"),
        ("access_token=a+b", None, "a+b"),
        ("access_token=%zz", None, "%zz"),
        ("&access_token=T", None, "T"),
        ("access_token=T&", None, "T"),
        ("a=1&&access_token=T", Some("a=1&"), "T"),
        ("&&access_token=T&&", Some("&&&"), "T"),
        ("a=1&access_token=T&&b=2", Some("a=1&&b=2"), "T"),
        ("a=%20+%zz&access_token=T&b=\u{e9}&=&c", Some("a=%20+%zz&b=\u{e9}&=&c"), "T"),
        ("Access_Token=X&access_token=T", Some("Access_Token=X"), "T"),
        ("access_token2=X&access_token=T&xaccess_token=Y", Some("access_token2=X&xaccess_token=Y"), "T"),
        ("access+token=X&access%20token=Y&access_token=T", Some("access+token=X&access%20token=Y"), "T"),
        ("a=access_token=X&access_token=T", Some("a=access_token=X"), "T"),
        ("access_token[]=X&access_token=T", Some("access_token[]=X"), "T"),
        ("a;access_token=X&access_token=T", Some("a;access_token=X"), "T"),
        ("b=2&a=1&access_token=T&a=1", Some("b=2&a=1&a=1"), "T"),
        ("%=X&access_token%=Y&access_token=T&%5", Some("%=X&access_token%=Y&%5"), "T"),
    ];
    for (query, rest, token) in rows {
        let taken = take(&access_token(), Some(query), &HeaderMap::new()).expect(query);
        assert_eq!(taken.query.as_deref(), *rest, "{query}");
        assert_eq!(taken.token.expose(), *token, "{query}");
        assert_eq!(taken.fallback_subprotocol, None, "{query}");
    }
}

#[test]
fn names_are_compared_after_plus_and_percent_decoding() {
    let carriers = [Carrier::Query("my token".into())];
    for query in ["my+token=T", "my%20token=T", "m%79+token=T"] {
        assert_eq!(take(&carriers, Some(query), &HeaderMap::new()).expect(query).query, None, "{query}");
    }
    assert_eq!(
        reason(take(&carriers, Some("my%2Btoken=T"), &HeaderMap::new())),
        ("token_missing", "token_missing"),
        "an encoded plus is a plus"
    );
    let odd = [Carrier::Query("a+b%".into())];
    assert_eq!(take(&odd, Some("a%2Bb%25=T"), &HeaderMap::new()).unwrap().query, None);
}

#[test]
fn queries_without_a_good_token_are_refused_by_name() {
    let large = format!("access_token={}", "x".repeat(MAX_TOKEN + 1));
    let encoded = format!("access_token={}", "%41".repeat(MAX_TOKEN / 3 + 1));
    let rows: &[(Option<&str>, &str, &str)] = &[
        (None, "token_missing", "token_missing"),
        (Some(""), "token_missing", "token_missing"),
        (Some("access_token="), "token_missing", "token_missing"),
        (Some("access_token"), "token_missing", "token_missing"),
        (Some("token=T"), "token_missing", "token_missing"),
        (Some("access_token=T&access_token=U"), "bad_request", "two_tokens"),
        (Some("access_token=T&access%5ftoken=U"), "bad_request", "two_tokens"),
        (Some(&large), "bad_request", "token_too_large"),
        (Some(&encoded), "bad_request", "token_too_large"),
        (Some("access_token=%ff"), "token_invalid", "token_not_text"),
    ];
    for (query, public, named) in rows {
        assert_eq!(reason(take(&access_token(), *query, &HeaderMap::new())), (*public, *named));
    }
    let largest = format!("access_token={}", "x".repeat(MAX_TOKEN));
    assert_eq!(take(&access_token(), Some(&largest), &HeaderMap::new()).unwrap().token.expose().len(), MAX_TOKEN);
}

#[test]
fn only_the_routes_own_carriers_count_and_are_taken_out() {
    let mut all = headers(&AUTHORIZATION, &[b"Bearer H"]);
    all.insert(COOKIE, HeaderValue::from_static("session=C"));
    all.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("bearer, P, bearer.Q"));
    let query = Some("access_token=T&jwt=U");

    let taken = take(&access_token(), query, &all).unwrap();
    assert_eq!(taken.token.expose(), "T");
    assert_eq!(taken.query.as_deref(), Some("jwt=U"));
    assert_eq!(taken.headers, all);
    assert_eq!(taken.subprotocols, ["bearer", "P", "bearer.Q"]);

    let taken = take(&[Carrier::Header], query, &all).unwrap();
    assert_eq!(taken.token.expose(), "H");
    assert_eq!(taken.query.as_deref(), query);
    assert!(!taken.headers.contains_key(AUTHORIZATION));
    assert!(taken.headers.contains_key(COOKIE));

    assert_eq!(reason(take(&[], query, &all)).0, "token_missing");
    let untouched = take(&[Carrier::Header], Some(""), &all).unwrap();
    assert_eq!(untouched.query.as_deref(), Some(""), "a query that held no token stays as it came");
}

#[test]
fn a_token_in_two_places_is_one_token() {
    let carriers = [
        Carrier::Query("access_token".into()),
        Carrier::SubprotocolPair,
        Carrier::SubprotocolPrefix("bearer.".into()),
        Carrier::SubprotocolEncoded("base64url.bearer.authorization.k8s.io.".into()),
        Carrier::Header,
        Carrier::Cookie("session".into()),
    ];
    let mut all = headers(&AUTHORIZATION, &[b"Bearer a.b.c", b"bearer a.b.c"]);
    all.insert(COOKIE, HeaderValue::from_static("session=a.b.c; session=a.b.c"));
    all.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("bearer, a.b.c, bearer.a.b.c"));
    all.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("base64url.bearer.authorization.k8s.io.YS5iLmM"));
    let taken = take(&carriers, Some("access_token=a.b.c"), &all).unwrap();
    assert_eq!(taken.token.expose(), "a.b.c");
    assert_eq!(taken.query, None);
    assert_eq!(taken.headers, headers(&AUTHORIZATION, &[]), "nothing of it is left");
    assert_eq!(taken.fallback_subprotocol.as_deref(), Some("bearer"));

    for (name, value) in [
        (AUTHORIZATION, "Bearer x"),
        (COOKIE, "session=x"),
        (SEC_WEBSOCKET_PROTOCOL, "bearer, x"),
        (SEC_WEBSOCKET_PROTOCOL, "bearer.x, chat"),
        (SEC_WEBSOCKET_PROTOCOL, "base64url.bearer.authorization.k8s.io.eA, chat"),
    ] {
        let one = headers(&name, &[value.as_bytes()]);
        let refused = take(&carriers, Some("access_token=a.b.c"), &one);
        assert_eq!(reason(refused), ("bad_request", "two_tokens"), "{value}");
    }
}

#[test]
fn subprotocols_lose_the_tokens_entries_and_one_is_always_answered() {
    const K8S: &str = "base64url.bearer.authorization.k8s.io.";
    let pair = Carrier::SubprotocolPair;
    let prefix = Carrier::SubprotocolPrefix("bearer.".into());
    let k8s = Carrier::SubprotocolEncoded(K8S.into());
    let phoenix = Carrier::SubprotocolEncoded("base64url.bearer.phx.".into());
    let encoded = format!("{K8S}YS5iLmM");
    let k8s_first = format!("{encoded}, v4.channel.k8s.io");
    let k8s_last = format!("v5.channel.k8s.io,{encoded}");
    let k8s_twice = format!("{encoded}, chat, {encoded}");
    // Carrier, headers, what goes on to the service, the answer if it chooses none.
    let rows: &[(&Carrier, &[&str], &[&str], &str)] = &[
        (&pair, &["bearer, a.b.c"], &[], "bearer"),
        (&pair, &["bearer,a.b.c"], &[], "bearer"),
        (&pair, &["bearer", "a.b.c"], &[], "bearer"),
        (&pair, &["  bearer\t ,  a.b.c "], &[], "bearer"),
        (&pair, &["bearer, a.b.c, chat"], &["chat"], "bearer"),
        (&pair, &["chat, bearer, a.b.c"], &["chat"], "bearer"),
        (&pair, &["chat", "bearer, a.b.c", "mqtt, v2"], &["chat", "mqtt", "v2"], "bearer"),
        (&pair, &["bearer, a.b.c, bearer, a.b.c"], &[], "bearer"),
        (&pair, &["bearer, a.b.c, bearer"], &["bearer"], "bearer"),
        (&pair, &["bearer, a.b.c, Bearer, chat"], &["Bearer", "chat"], "bearer"),
        (&pair, &["bearer, a.b.c, bearer.x"], &["bearer.x"], "bearer"),
        (&prefix, &["bearer.a.b.c, chat"], &["chat"], "chat"),
        (&prefix, &["chat, bearer.a.b.c"], &["chat"], "chat"),
        (&prefix, &["graphql-ws", "bearer.a.b.c", "chat"], &["graphql-ws", "chat"], "graphql-ws"),
        (&prefix, &["bearer.a.b.c, bearer.a.b.c, chat"], &["chat"], "chat"),
        (&prefix, &["bearer.a.b.c, bearer"], &["bearer"], "bearer"),
        (&prefix, &["bearer.a.b.c, Bearer.x"], &["Bearer.x"], "Bearer.x"),
        (&prefix, &["bearer.a.b.c, bearer., chat"], &["chat"], "chat"),
        (&k8s, &[&k8s_first], &["v4.channel.k8s.io"], "v4.channel.k8s.io"),
        (&k8s, &[&k8s_last], &["v5.channel.k8s.io"], "v5.channel.k8s.io"),
        (&k8s, &[&k8s_twice], &["chat"], "chat"),
        (&phoenix, &["phoenix, base64url.bearer.phx.YS5iLmM"], &["phoenix"], "phoenix"),
        (&phoenix, &["base64url.bearer.phx.YS5iLmM", "phoenix"], &["phoenix"], "phoenix"),
    ];
    for (carrier, offered, rest, answer) in rows {
        let offered: Vec<&[u8]> = offered.iter().map(|value| value.as_bytes()).collect();
        let taken = take(&[(*carrier).clone()], None, &headers(&SEC_WEBSOCKET_PROTOCOL, &offered)).expect(answer);
        assert_eq!(taken.token.expose(), "a.b.c", "{offered:?}");
        assert_eq!(taken.subprotocols, *rest, "{offered:?}");
        assert_eq!(taken.fallback_subprotocol.as_deref(), Some(*answer), "{offered:?}");
        let joined = rest.join(", ").into_bytes();
        let left = if rest.is_empty() { vec![] } else { vec![joined] };
        assert_eq!(values(&taken.headers, &SEC_WEBSOCKET_PROTOCOL), left, "{offered:?}");
        assert_eq!(taken.headers.get("x-other").unwrap(), "kept");
    }
}

#[test]
fn an_entry_that_holds_no_token_goes_on_no_more_than_one_that_does() {
    let carriers = [Carrier::SubprotocolPrefix("jwt.".into())];
    let mut headers = HeaderMap::new();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("jwt., chat"));
    let (token, left) = take_any(&carriers, None, &headers).unwrap();
    assert!(token.is_none());
    assert_eq!(left.subprotocols, ["chat"]);
    assert_eq!(left.headers[SEC_WEBSOCKET_PROTOCOL], "chat");
}

#[test]
fn unusable_subprotocols_are_refused_by_name() {
    const K8S: &str = "base64url.bearer.authorization.k8s.io.";
    let pair = vec![Carrier::SubprotocolPair];
    let prefix = vec![Carrier::SubprotocolPrefix("bearer.".into())];
    let k8s = vec![Carrier::SubprotocolEncoded(K8S.into())];
    let alone = format!("{K8S}YS5iLmM");
    let padded = format!("{K8S}YQ==, chat");
    let trailing_bits = format!("{K8S}YR, chat");
    let not_text = format!("{K8S}_w, chat");
    let large = format!("bearer, {}", "x".repeat(MAX_TOKEN + 1));
    let large_k8s = format!("{K8S}{}, chat", "x".repeat(MAX_TOKEN + 1));
    let malformed = ("bad_request", "subprotocols_malformed");
    let alone_reason = ("subprotocol_companion_missing", "subprotocol_companion_missing");
    let missing = ("token_missing", "token_missing");
    let query = access_token();
    let rows: &[(&[Carrier], &str, (&str, &str))] = &[
        (&pair, "bearer", missing),
        (&pair, "chat, bearer", missing),
        (&pair, "Bearer, a.b.c", missing),
        (&pair, "chat", missing),
        (&pair, "", malformed),
        (&pair, ",", malformed),
        (&pair, "bearer,,a.b.c", malformed),
        (&pair, "bearer, a.b.c,", malformed),
        (&pair, ",bearer, a.b.c", malformed),
        (&pair, "bearer, a b", malformed),
        (&pair, "bearer, \"a.b.c\"", malformed),
        (&pair, "bearer, a.b.c, ch\u{e9}t", malformed),
        (&pair, "bearer, a.b.c, x=y", malformed),
        (&pair, "bearer, a.b.c, a/b", malformed),
        (&pair, "bearer, a, bearer, b", ("bad_request", "two_tokens")),
        (&pair, &large, ("bad_request", "token_too_large")),
        (&prefix, "bearer.a.b.c", alone_reason),
        (&prefix, "bearer.a.b.c, bearer.a.b.c", alone_reason),
        (&prefix, "bearer.a, bearer.b, chat", ("bad_request", "two_tokens")),
        (&prefix, "bearer., chat", missing),
        (&k8s, &alone, alone_reason),
        (&k8s, &padded, malformed),
        (&k8s, &trailing_bits, ("token_invalid", "token_not_base64url")),
        (&k8s, &not_text, ("token_invalid", "token_not_text")),
        (&k8s, &large_k8s, ("bad_request", "token_too_large")),
        (&query, "chat,", malformed),
    ];
    for (carriers, value, named) in rows {
        let refused = take(carriers, None, &headers(&SEC_WEBSOCKET_PROTOCOL, &[value.as_bytes()]));
        assert_eq!(reason(refused), *named, "{value}");
    }
}

#[test]
fn an_offer_is_answered_also_when_the_token_came_another_way() {
    let mut carriers = access_token();
    carriers.push(Carrier::SubprotocolPrefix("bearer.".into()));
    for (offered, answer) in [("chat, mqtt", Some("chat")), ("bearer.T, mqtt", Some("mqtt"))] {
        let taken =
            take(&carriers, Some("access_token=T"), &headers(&SEC_WEBSOCKET_PROTOCOL, &[offered.as_bytes()])).unwrap();
        assert_eq!(taken.fallback_subprotocol.as_deref(), answer);
    }
    let alone = take(&carriers, Some("access_token=T"), &headers(&SEC_WEBSOCKET_PROTOCOL, &[b"bearer.T"]));
    assert_eq!(reason(alone).0, "subprotocol_companion_missing");
    let none = take(&carriers, Some("access_token=T"), &HeaderMap::new()).unwrap();
    assert_eq!(none.fallback_subprotocol, None);
    let untouched = headers(&SEC_WEBSOCKET_PROTOCOL, &[b"chat ,mqtt", b"v2"]);
    let taken = take(&carriers, Some("access_token=T"), &untouched).unwrap();
    assert_eq!(taken.headers, untouched, "a list without the token keeps its bytes");
}

#[test]
fn the_token_is_never_among_the_subprotocols_that_go_on_or_are_answered() {
    const K8S: &str = "base64url.bearer.authorization.k8s.io.";
    let all = [
        Carrier::Query("access_token".into()),
        Carrier::SubprotocolPair,
        Carrier::SubprotocolPrefix("bearer.".into()),
        Carrier::SubprotocolEncoded(K8S.into()),
        Carrier::Header,
        Carrier::Cookie("session".into()),
    ];
    let k8s = format!("{K8S}YS5iLmM, chat, YS5iLmM");
    let k8s_plain = format!("a.b.c, {K8S}YS5iLmM, chat");
    let bare: &[(HeaderName, &str)] = &[];
    let header: &[(HeaderName, &str)] = &[(AUTHORIZATION, "Bearer a.b.c")];
    let cookie: &[(HeaderName, &str)] = &[(COOKIE, "session=a.b.c")];
    // The offer, where else the token stands, what goes on and the answer; `None`: refused for want of a companion.
    let rows: &[(&str, &[(HeaderName, &str)], Option<(&[&str], &str)>)] = &[
        ("bearer.a.b.c, a.b.c", bare, None),
        ("bearer.a.b.c, a.b.c, chat", bare, Some((&["chat"], "chat"))),
        ("a.b.c, chat, bearer.a.b.c", bare, Some((&["chat"], "chat"))),
        ("bearer, a.b.c, a.b.c", bare, Some((&[], "bearer"))),
        ("a.b.c, bearer, a.b.c, mqtt", bare, Some((&["mqtt"], "bearer"))),
        ("bearer, a.b.c, YS5iLmM", bare, Some((&[], "bearer"))),
        ("a.b.c", header, None),
        ("a.b.c, chat", header, Some((&["chat"], "chat"))),
        ("YS5iLmM, chat", cookie, Some((&["chat"], "chat"))),
        ("YS5iLmM", cookie, None),
        (&k8s, bare, Some((&["chat"], "chat"))),
        (&k8s_plain, bare, Some((&["chat"], "chat"))),
    ];
    for (offered, more, expected) in rows {
        let mut request = headers(&SEC_WEBSOCKET_PROTOCOL, &[offered.as_bytes()]);
        for (name, value) in *more {
            request.insert(name, HeaderValue::from_static(value));
        }
        match (take(&all, None, &request), expected) {
            (Ok(taken), Some((rest, answer))) => {
                assert_eq!(taken.subprotocols, *rest, "{offered}");
                assert_eq!(taken.fallback_subprotocol.as_deref(), Some(*answer), "{offered}");
                let left = if rest.is_empty() { vec![] } else { vec![rest.join(", ").into_bytes()] };
                assert_eq!(values(&taken.headers, &SEC_WEBSOCKET_PROTOCOL), left, "{offered}");
            }
            (refused, None) => assert_eq!(reason(refused).0, "subprotocol_companion_missing", "{offered}"),
            (Err(denial), Some(_)) => panic!("{offered}: {denial}"),
        }
    }
}

#[test]
fn only_the_scheme_bearer_is_taken_from_authorization() {
    let rows: &[HeaderRow] = &[
        (&[b"Bearer T"], Some("T"), &[]),
        (&[b"bearer T"], Some("T"), &[]),
        (&[b"BEARER   T  "], Some("T"), &[]),
        (&[b"Bearer\tT"], Some("T"), &[]),
        (&[b"Bearer T", b"Bearer T"], Some("T"), &[]),
        (&[b"Basic eA==", b"Bearer T", b"Digest \xff"], Some("T"), &[b"Basic eA==", b"Digest \xff"]),
        (&[b"Bearer", b"Bearer T"], Some("T"), &[]),
        (&[b"Basic eA=="], None, &[]),
        (&[b"BearerT"], None, &[]),
        (&[b"Token T"], None, &[]),
        (&[b"Bearer"], None, &[]),
        (&[b"Bearer "], None, &[]),
        (&[b""], None, &[]),
        (&[b"\xff\xfe"], None, &[]),
    ];
    for (given, token, left) in rows {
        match (take(&[Carrier::Header], None, &headers(&AUTHORIZATION, given)), token) {
            (Ok(taken), Some(wanted)) => {
                assert_eq!(taken.token.expose(), *wanted);
                assert_eq!(values(&taken.headers, &AUTHORIZATION), *left);
            }
            (refused, None) => assert_eq!(reason(refused).0, "token_missing", "{given:?}"),
            (Err(denial), Some(_)) => panic!("{given:?}: {denial}"),
        }
    }
    let carriers = [Carrier::Header];
    let two = take(&carriers, None, &headers(&AUTHORIZATION, &[b"Bearer T", b"Bearer U"]));
    assert_eq!(reason(two), ("bad_request", "two_tokens"));
    let odd = take(&carriers, None, &headers(&AUTHORIZATION, &[b"Bearer \xff"]));
    assert_eq!(reason(odd), ("token_invalid", "token_not_text"));
    let large = format!("Bearer {}", "x".repeat(MAX_TOKEN + 1));
    let large = take(&carriers, None, &headers(&AUTHORIZATION, &[large.as_bytes()]));
    assert_eq!(reason(large), ("bad_request", "token_too_large"));
}

#[test]
fn only_the_carriers_cookie_is_cut_out() {
    let rows: &[HeaderRow] = &[
        (&[b"jwt=T"], Some("T"), &[]),
        (&[b"jwt=T; a=1"], Some("T"), &[b"a=1"]),
        (&[b"a=1; jwt=T"], Some("T"), &[b"a=1"]),
        (&[b"a=1; jwt=T; b=2"], Some("T"), &[b"a=1; b=2"]),
        (&[b"a=1;jwt=T;b=2"], Some("T"), &[b"a=1;b=2"]),
        (&[b"a=1;  jwt = T ; b=\"x y\""], Some("T"), &[b"a=1; b=\"x y\""]),
        (&[b"jwt=\"T\"; a=1"], Some("T"), &[b"a=1"]),
        (&[b"jwt=T; a=1", b"b=2"], Some("T"), &[b"a=1", b"b=2"]),
        (&[b"jwt=T", b"b=2;"], Some("T"), &[b"b=2;"]),
        (&[b"jwt=T; jwt=T"], Some("T"), &[]),
        (&[b"jwt=T; a=1; jwt=T"], Some("T"), &[b"a=1"]),
        (&[b"jwt=; a=1; jwt=T"], Some("T"), &[b"a=1"]),
        (&[b"a=\xff; jwt=T; ;b"], Some("T"), &[b"a=\xff; ;b"]),
        (&[b"JWT=X; jwt=T; xjwt=Y; jwt2=Z"], Some("T"), &[b"JWT=X; xjwt=Y; jwt2=Z"]),
        (&[b"a=jwt=X; jwt=T=="], Some("T=="), &[b"a=jwt=X"]),
        (&[b"jwt"], None, &[]),
        (&[b"jwt="], None, &[]),
        (&[b"jwt=\"\""], None, &[]),
        (&[b";;"], None, &[]),
        (&[b""], None, &[]),
        (&[b"a=1"], None, &[]),
    ];
    for (given, token, left) in rows {
        match (take(&[Carrier::Cookie("jwt".into())], None, &headers(&COOKIE, given)), token) {
            (Ok(taken), Some(wanted)) => {
                assert_eq!(taken.token.expose(), *wanted);
                assert_eq!(values(&taken.headers, &COOKIE), *left, "{given:?}");
            }
            (refused, None) => assert_eq!(reason(refused).0, "token_missing", "{given:?}"),
            (Err(denial), Some(_)) => panic!("{given:?}: {denial}"),
        }
    }
    let two = take(&[Carrier::Cookie("jwt".into())], None, &headers(&COOKIE, &[b"jwt=T; jwt=U"]));
    assert_eq!(reason(two), ("bad_request", "two_tokens"));
}

/// A pair of a query: bytes of all kinds, so also empty ones, `=` and bad percent-encoding.
fn any_pair() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z%=+0-9._;]{0,12}",
        Just(String::new()),
        Just("Access_token=x".to_owned()),
        Just("access_token2".to_owned()),
        "\\PC{0,6}".prop_map(|text| text.replace('&', "")),
    ]
}

fn is_other(pair: &str) -> bool {
    !matches!(pair.split('=').next(), Some("access_token" | "access%5Ftoken"))
}

proptest! {
    #[test]
    fn all_other_pairs_keep_their_bytes_and_order(
        pairs in prop::collection::vec(any_pair().prop_filter("another name", |pair| is_other(pair)), 0..8),
        places in prop::collection::vec((0..9_usize, prop::bool::ANY), 1..4),
    ) {
        let mut with = pairs.clone();
        for (place, encoded) in places {
            let name = if encoded { "access%5Ftoken" } else { "access_token" };
            with.insert(place.min(with.len()), format!("{name}=a.b.c"));
        }
        let taken = take(&access_token(), Some(&with.join("&")), &HeaderMap::new()).unwrap();
        let left = pairs.join("&");
        prop_assert_eq!(taken.query, (!left.is_empty()).then_some(left));
        prop_assert_eq!(taken.token.expose(), "a.b.c");
    }

    #[test]
    fn all_other_cookies_keep_their_bytes_and_order(
        cookies in prop::collection::vec("[a-z]{1,4}=[!-:<-~]{0,8}", 0..6),
        place in 0..7_usize,
    ) {
        let cookies: Vec<String> = cookies.into_iter().filter(|cookie| !cookie.starts_with("jwt=")).collect();
        let mut with = cookies.clone();
        with.insert(place.min(with.len()), "jwt=a.b.c".into());
        let given = headers(&COOKIE, &[with.join("; ").as_bytes()]);
        let taken = take(&[Carrier::Cookie("jwt".into())], None, &given).unwrap();
        let left = cookies.join("; ").into_bytes();
        let left = if left.is_empty() { vec![] } else { vec![left] };
        prop_assert_eq!(values(&taken.headers, &COOKIE), left);
    }

    #[test]
    fn hostile_requests_never_panic_and_never_keep_the_token(
        query in prop::option::of("\\PC{0,40}"),
        protocols in prop::collection::vec(prop::collection::vec(32..=255_u8, 0..30), 0..3),
        authorization in prop::collection::vec(32..=255_u8, 0..30),
        cookie in prop::collection::vec(32..=255_u8, 0..30),
    ) {
        let carriers = [
            Carrier::Query("t".into()),
            Carrier::SubprotocolPair,
            Carrier::SubprotocolPrefix("b.".into()),
            Carrier::SubprotocolEncoded("k.".into()),
            Carrier::Header,
            Carrier::Cookie("c".into()),
        ];
        let mut given = HeaderMap::new();
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap_or(HeaderValue::from_static("x"));
        for protocol in &protocols {
            given.append(SEC_WEBSOCKET_PROTOCOL, value(protocol));
        }
        given.append(AUTHORIZATION, value(&authorization));
        given.append(COOKIE, value(&cookie));
        given.append(COOKIE, HeaderValue::from_static("c=secret-token"));
        if let Ok(taken) = take(&carriers, query.as_deref(), &given) {
            let left = format!("{:?}", taken.headers);
            prop_assert!(!left.contains("secret-token"), "the token is left");
            prop_assert_eq!(taken.token.expose(), "secret-token");
        }
    }
}

#[test]
fn an_answer_before_the_token_is_judged_is_never_the_token() {
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
    let carriers = [Carrier::SubprotocolPair, Carrier::SubprotocolPrefix("b.".into())];
    let among = ["chat".to_owned(), "other".to_owned()];
    let table: [(&str, Option<&[String]>, Option<&str>); 9] = [
        ("", None, None),
        ("chat", None, Some("chat")),
        ("bearer, T, chat", None, Some("bearer")),
        ("b.T, chat", None, Some("chat")),
        ("JWT, chat", None, Some("chat")),
        ("JWT", None, None),
        ("bearer, chat, other", Some(&among), Some("other")),
        ("x, other, chat", Some(&among), Some("other")),
        ("x", Some(&among), None),
    ];
    for (offered, among, expected) in table {
        let offered = offered.replace("JWT", jwt);
        let values: &[&[u8]] = if offered.is_empty() { &[] } else { &[offered.as_bytes()] };
        let answer = answerable(&carriers, &headers(&SEC_WEBSOCKET_PROTOCOL, values), among).unwrap();
        assert_eq!(answer.as_deref(), expected, "{offered}");
    }
    assert!(answerable(&carriers, &headers(&SEC_WEBSOCKET_PROTOCOL, &[b"a,,b"]), None).is_err());
}
