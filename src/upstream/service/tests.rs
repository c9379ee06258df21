use std::collections::BTreeMap;

use serde_json::json;

use super::*;

fn config(url: &str) -> Config {
    let (host, port) = url.strip_prefix("ws://").unwrap().rsplit_once(':').unwrap();
    Config {
        url: url.to_owned(),
        host: host.to_owned(),
        port: port.parse().unwrap(),
        tls: None,
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
    }
}

fn options(balance: Balance) -> Options {
    let passive = Passive { fail_after: Some(1), fail_pause: Duration::from_secs(10) };
    let rules = Rules { max_streams: None, passive };
    Options { balance, retries: 9, rules, check: None, resolve_interval: Duration::from_secs(30) }
}

fn service(balance: Balance, ports: &[u16]) -> Service {
    let typed = ports.iter().map(|port| config(&format!("ws://127.0.0.1:{port}"))).collect();
    Service::new("s".into(), options(balance), typed)
}

fn from(address: [u8; 4]) -> Affinity<'static> {
    Affinity { claims: None, address: address.into() }
}

/// The ports of the candidates, in their order.
fn ports(service: &Service, affinity: Affinity<'_>, now: Mono) -> Vec<u16> {
    service.candidates(affinity, Use::Stream, now).map(|endpoint| endpoint.config().port).collect()
}

fn at(seconds: u64) -> Mono {
    Mono::from_origin(Duration::from_secs(seconds))
}

const HERE: [u8; 4] = [192, 0, 2, 1];

#[test]
fn the_one_with_the_least_is_asked_first_and_equals_take_turns() {
    let service = service(Balance::LeastStreams, &[1, 2, 3]);
    let firsts: Vec<u16> = (0..6).map(|_| ports(&service, from(HERE), at(0))[0]).collect();
    assert_eq!(firsts, [1, 2, 3, 1, 2, 3]);
    let endpoints = service.endpoints();
    let _one = endpoints[0].enter(Use::Stream, at(0)).unwrap();
    let _two = (endpoints[1].enter(Use::Request, at(0)).unwrap(), endpoints[1].enter(Use::Stream, at(0)).unwrap());
    assert_eq!(ports(&service, from(HERE), at(0)), [3, 1, 2]);
    let three: Vec<_> = (0..3).map(|_| endpoints[2].enter(Use::Stream, at(0)).unwrap()).collect();
    assert_eq!(ports(&service, from(HERE), at(0)), [1, 2, 3]);
    drop(three);
    assert_eq!(ports(&service, from(HERE), at(0)), [3, 1, 2], "a lease that ends gives its place back");
}

#[test]
fn the_same_client_gets_the_same_endpoint_and_one_that_goes_moves_only_its_own() {
    let before = service(Balance::Address, &[1, 2, 3, 4]);
    let after = service(Balance::Address, &[4, 3, 1]);
    let mut each = BTreeMap::<u16, usize>::new();
    for number in 0..=255 {
        let client = from([198, 51, 100, number]);
        let order = ports(&before, client, at(0));
        assert_eq!(order, ports(&before, client, at(0)));
        let left: Vec<u16> = order.iter().copied().filter(|port| *port != 2).collect();
        assert_eq!(left, ports(&after, client, at(0)), "the order of the others is as it was");
        *each.entry(order[0]).or_default() += 1;
    }
    assert!(each.len() == 4 && each.values().all(|count| (32..=96).contains(count)), "{each:?}");
}

#[test]
fn a_claim_decides_whatever_the_address_and_without_it_the_load_does() {
    let service = service(Balance::Claim(Claim::parse("/user/id").unwrap()), &[1, 2, 3]);
    let claims = |id: serde_json::Value| json!({"user": {"id": id}}).as_object().unwrap().clone();
    let mut firsts = std::collections::BTreeSet::new();
    for id in 0..32 {
        let claims = claims(json!(id));
        let order = |address| ports(&service, Affinity { claims: Some(&claims), ..from(address) }, at(0));
        assert_eq!(order(HERE), order([203, 0, 113, 9]));
        firsts.insert(order(HERE)[0]);
    }
    assert_eq!(firsts.len(), 3);
    let nobody = claims(serde_json::Value::Null);
    for claims in [None, Some(&Map::new()), Some(&nobody)] {
        let affinity = Affinity { claims, ..from(HERE) };
        let firsts: std::collections::BTreeSet<u16> = (0..3).map(|_| ports(&service, affinity, at(0))[0]).collect();
        assert_eq!(firsts.len(), 3, "they take turns");
    }
}

#[test]
fn one_that_is_not_well_is_the_last_resort_and_one_that_is_full_is_none() {
    let rules = Rules { max_streams: Some(1), ..options(Balance::LeastStreams).rules };
    let options = Options { rules, retries: 1, ..options(Balance::LeastStreams) };
    let service =
        Service::new("s".into(), options, [1, 2, 3].map(|port| config(&format!("ws://127.0.0.1:{port}"))).into());
    let endpoints = service.endpoints();
    endpoints[0].dialled(Err("refused".into()), at(0));
    assert_eq!(ports(&service, from(HERE), at(0)).len(), 2, "no more than one retry");
    assert!(!ports(&service, from(HERE), at(0)).contains(&1));
    let two = endpoints[1].enter(Use::Stream, at(0)).unwrap();
    assert!(endpoints[1].enter(Use::Stream, at(0)).is_none(), "it is full");
    assert!(endpoints[1].enter(Use::Request, at(0)).is_some(), "a request is no stream");
    assert_eq!(ports(&service, from(HERE), at(0)), [3]);
    let _three = endpoints[2].enter(Use::Stream, at(0)).unwrap();
    assert_eq!(ports(&service, from(HERE), at(0)), [0; 0], "those that are well are full");
    drop(two);
    for endpoint in endpoints.iter() {
        endpoint.dialled(Err("refused".into()), at(0));
    }
    assert_eq!(ports(&service, from(HERE), at(0)), [1, 2], "none is well: they are tried all the same");
    assert!(!service.is_down(), "a pause is no check");
}

#[test]
fn who_goes_before_an_endpoint_is_tried_keeps_nobody_else_away_from_it() {
    let service = service(Balance::LeastStreams, &[1, 2]);
    let endpoint = service.endpoints()[0].clone();
    endpoint.dialled(Err("refused".into()), at(0));
    let trial = endpoint.enter(Use::Stream, at(10)).unwrap();
    drop(endpoint.enter(Use::Stream, at(10)).unwrap());
    assert_eq!(ports(&service, from(HERE), at(10)), [2], "another one decides nothing");
    drop(trial);
    assert_eq!(ports(&service, from(HERE), at(10)).len(), 2);
    // What was decided stays so.
    let trial = endpoint.enter(Use::Request, at(10)).unwrap();
    endpoint.dialled(Err("refused".into()), at(11));
    drop(trial);
    assert_eq!(ports(&service, from(HERE), at(20)), [2]);
    let trial = endpoint.enter(Use::Request, at(21)).unwrap();
    endpoint.dialled(Ok(()), at(22));
    drop(trial);
    assert!(endpoint.is_well(at(22)) && endpoint.glimpse(at(22)).error.is_none());
}

#[test]
fn an_endpoint_that_stays_keeps_what_is_known_of_it_over_a_reload() {
    let older = service(Balance::LeastStreams, &[1, 2]);
    let lease = older.endpoints()[0].enter(Use::Stream, at(0)).unwrap();
    older.endpoints()[0].dialled(Err("refused".into()), at(0));
    let newer = service(Balance::Address, &[3, 1]);
    newer.take_over(&older);
    let shown = |service: &Service| -> Vec<(u16, usize, bool)> {
        let endpoints = service.endpoints();
        endpoints.iter().map(|endpoint| (endpoint.config().port, endpoint.load(), endpoint.is_well(at(0)))).collect()
    };
    assert_eq!(shown(&newer), [(3, 0, true), (1, 1, false)]);
    drop(lease);
    assert_eq!(shown(&newer), [(3, 0, true), (1, 0, false)], "a stream from before counts, and ends, as any");
}

#[test]
fn each_address_of_a_name_is_an_endpoint_and_those_that_stay_stay() {
    let service = Service::new(
        "s".into(),
        options(Balance::LeastStreams),
        vec![config("ws://chat:9"), config("ws://127.0.0.1:1")],
    );
    let name = service.names().next().unwrap().clone();
    assert_eq!(service.names().count(), 1, "an address is not looked up");
    let shown = |service: &Service| -> Vec<(String, usize)> {
        service.endpoints().iter().map(|endpoint| (endpoint.name(), endpoint.load())).collect()
    };
    assert_eq!(shown(&service), [("ws://chat:9".to_owned(), 0), ("ws://127.0.0.1:1".to_owned(), 0)]);
    service.resolved(&name, &[([10, 0, 0, 1], 9).into(), ([10, 0, 0, 2], 9).into()]);
    let endpoints = service.endpoints();
    let stays = endpoints.iter().find(|endpoint| endpoint.name() == "ws://chat:9 (10.0.0.2)").unwrap();
    let _lease = stays.enter(Use::Stream, at(0)).unwrap();
    service.resolved(&name, &[([10, 0, 0, 2], 9).into(), ([10, 0, 0, 3], 9).into()]);
    let now = [("ws://127.0.0.1:1", 0), ("ws://chat:9 (10.0.0.2)", 1), ("ws://chat:9 (10.0.0.3)", 0)];
    let now = now.map(|(name, load)| (name.to_owned(), load));
    assert_eq!(shown(&service), now);
    let newer = Service::new("s".into(), options(Balance::LeastStreams), vec![config("ws://chat:9")]);
    newer.take_over(&service);
    assert_eq!(shown(&newer), now[1..], "the addresses are known before the name is looked up again");
}

#[test]
fn an_address_that_comes_back_still_has_the_streams_that_it_had() {
    let addresses = |last: [u8; 2]| last.map(|last| SocketAddr::from(([10, 0, 0, last], 9)));
    let service = Service::new("s".into(), options(Balance::LeastStreams), vec![config("ws://chat:9")]);
    let name = service.names().next().unwrap().clone();
    let streams = |service: &Service| -> Vec<usize> {
        service.endpoints().iter().map(|endpoint| endpoint.glimpse(at(0)).streams).collect()
    };
    service.resolved(&name, &addresses([1, 2]));
    let lease = service.endpoints()[0].enter(Use::Stream, at(0)).unwrap();
    service.resolved(&name, &addresses([2, 3]));
    assert_eq!(streams(&service), [0, 0]);
    let newer = Service::new("s".into(), options(Balance::LeastStreams), vec![config("ws://chat:9")]);
    newer.take_over(&service);
    for service in [&service, &newer] {
        service.resolved(&name, &addresses([1, 3]));
        assert_eq!(streams(service), [1, 0]);
        service.resolved(&name, &addresses([2, 3]));
    }
    drop(lease);
    service.resolved(&name, &addresses([2, 3]));
    assert!(service.gone().is_empty(), "nothing is kept of one that nobody uses");
}
