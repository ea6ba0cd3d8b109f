//! Who may enter, who must be at the other end, and what a bad peer costs.

use tokio::io::AsyncReadExt;

use super::*;

/// Probes node 2, listening with `server`, from node 1 with `client`.
async fn check(
    client: TransportConfig,
    server: TransportConfig,
    stranger: bool,
    expect: Result<(), &str>,
) {
    let one = Node::start(client).await;
    let two = Node::start(server).await;
    if stranger {
        two.recorder.strangers.lock().unwrap().insert(NodeId(1));
    }
    one.dials(2, two.address());
    let got = one
        .transport
        .probe(NodeId(2), PATIENCE)
        .await
        .map_err(|error| error.to_string());
    match (&got, expect) {
        (Ok(()), Ok(())) => {}
        (Err(error), Err(part)) if error.contains(part) => {}
        _ => panic!("{got:?} instead of {expect:?}"),
    }
    let connected = Lane::ALL
        .iter()
        .any(|lane| one.transport.connected(NodeId(2), *lane));
    assert!(
        expect.is_ok() || !connected,
        "a lane entered where the probe did not"
    );
}

#[tokio::test]
async fn only_members_with_their_own_certificate_of_this_pool_meet() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let trusting = |ca: &Ca, identity: &ClusterTls| {
        let mut tls = identity.clone();
        tls.replace_ca(vec![ca.0.der().clone()]);
        tls
    };
    let old = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let good = || (config(1, ca.node(1)), config(2, ca.node(2)));

    let (client, server) = good();
    check(client, server, false, Ok(())).await;

    let (_, server) = good();
    let client = config(1, trusting(&ca, &foreign.node(1)));
    check(client, server, false, Err("TLS failed")).await;

    let (client, _) = good();
    let server = config(2, trusting(&ca, &foreign.node(2)));
    check(client, server, false, Err("TLS failed")).await;

    let (_, server) = good();
    let client = config(1, ca.issue("node-1.test.muster", old));
    check(client, server, false, Err("TLS failed")).await;

    let (client, _) = good();
    check(client, config(3, ca.node(3)), false, Err("TLS failed")).await;

    let (client, server) = good();
    check(client, server, true, Err("not a member of the pool")).await;

    let (mut client, server) = good();
    client.protocol = VersionRange { min: 7, max: 9 };
    check(
        client,
        server,
        false,
        Err("no common protocol version; it is node 2 of pool \"test\", speaking 1 to 1"),
    )
    .await;
}

#[tokio::test]
async fn a_node_starts_only_with_its_own_certificate_and_a_free_port() {
    let ca = Ca::new();
    let handler = || {
        let (seen, _) = mpsc::unbounded_channel();
        Arc::new(Recorder {
            seen,
            held: Mutex::default(),
            strangers: Mutex::default(),
            skews: Mutex::default(),
        })
    };
    let error = Transport::start(config(1, ca.node(2)), handler())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the cluster certificate must name node-1.test.muster: it names node 2"
    );
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(1, ca.node(1));
    config.listen = taken.local_addr().unwrap();
    let error = Transport::start(config, handler()).await.unwrap_err();
    assert!(matches!(error, TransportError::Bind { .. }), "{error}");
}

#[tokio::test]
async fn new_certificates_are_used_without_a_restart() {
    let (ca, next) = (Ca::new(), Ca::new());
    let one = Node::start(config(1, ca.node(1))).await;
    let two = Node::start(config(2, next.node(2))).await;
    one.dials(2, two.address());
    let refused = one.transport.probe(NodeId(2), PATIENCE).await;
    assert!(
        matches!(refused, Err(ProbeError::Connect(ConnectError::Tls(_)))),
        "{refused:?}"
    );
    one.transport.reload_tls(&next.node(1)).unwrap();
    one.transport.probe(NodeId(2), PATIENCE).await.unwrap();
    assert!(
        one.transport.reload_tls(&next.node(7)).is_err(),
        "another node's certificate"
    );
    one.transport.probe(NodeId(2), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_announced_length_above_the_limit_ends_the_connection_unread() {
    let ca = Ca::new();
    let mut node = Node::start(config(1, ca.node(1))).await;
    let mut peer = raw_opener(&ca.node(2), &identity(2), &node, Lane::Raft).await;
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    peer.write_all(&header).await.unwrap();
    assert_eq!(
        node.wait_down(2, Lane::Raft, Direction::Incoming).await,
        DownReason::Protocol
    );
    let mut rest = Vec::new();
    drop(
        tokio::time::timeout(PATIENCE, peer.read_to_end(&mut rest))
            .await
            .expect("the node closes it"),
    );
}

#[tokio::test]
async fn an_opener_may_not_send_replies() {
    let ca = Ca::new();
    let mut node = Node::start(config(1, ca.node(1))).await;
    let mut peer = raw_opener(&ca.node(2), &identity(2), &node, Lane::Route).await;
    let mut bytes = bytes::BytesMut::new();
    Frame {
        flags: flags::REPLY,
        ..Frame::new(ECHO, "")
    }
    .put_header(&mut bytes);
    peer.write_all(&bytes).await.unwrap();
    assert_eq!(
        node.wait_down(2, Lane::Route, Direction::Incoming).await,
        DownReason::Protocol
    );
}

#[tokio::test]
async fn bytes_that_are_no_hello_are_no_connection() {
    let ca = Ca::new();
    let mut config = config(1, ca.node(1));
    config.limits.handshake_timeout = Duration::from_millis(200);
    let node = Node::start(config).await;
    let context = TlsContext::new(&ca.node(2), NodeId(2), &pool()).unwrap();
    for garbage in [
        &b"\x00\x10GET / HTTP/1.1\r\n"[..],
        &b"\xff\xff"[..],
        &b"\x00\x40"[..],
    ] {
        let tcp = TcpStream::connect(node.transport.local_addr())
            .await
            .unwrap();
        let mut stream = context
            .connector
            .connect(server_name(NodeId(1), &pool()), tcp)
            .await
            .unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        drop(
            tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
                .await
                .expect("the node closes it"),
        );
        assert!(rest.is_empty());
    }
    // Neither does a port scanner that never speaks TLS keep its place.
    let mut silent = TcpStream::connect(node.transport.local_addr())
        .await
        .unwrap();
    let mut rest = Vec::new();
    drop(
        tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest))
            .await
            .expect("the node closes it"),
    );
}

#[tokio::test]
async fn an_earlier_life_of_a_node_is_refused() {
    let ca = Ca::new();
    let mut node = Node::start(config(1, ca.node(1))).await;
    let tls = ca.node(2);
    let new = identity(2);
    let _peer = raw_opener(&tls, &new, &node, Lane::Route).await;
    node.wait_up(2, Lane::Route, Direction::Incoming).await;
    let mut config = config(2, tls);
    config.incarnation = Incarnation(new.incarnation.0 - 1);
    let old = Node::start(config).await;
    old.dials(1, node.address());
    let error = old.transport.probe(NodeId(1), PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("a later incarnation"), "{error}");
}
