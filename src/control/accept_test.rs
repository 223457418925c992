//! Tests of the entrance: limits, and patience under a clock of the test's own.

use futures_lite::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

type Taken = Pin<Box<dyn Stream<Item = io::Result<Connection>>>>;

/// An entrance and where it is.
async fn entrance(protocol: Protocol, limits: ConnectionLimits) -> (Taken, SocketAddr, Counter) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let refused = Counter::default();
    let entrance = Entrance::new(listener, protocol, limits, refused.clone());
    (Box::pin(entrance.connections()), address, refused)
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("listening")
}

async fn next(taken: &mut Taken) -> Connection {
    taken.next().await.expect("endless").expect("taken")
}

/// Expects that this connection is closed and none is taken.
async fn expect_refused(taken: &mut Taken, mut socket: TcpStream) {
    let closed = async { socket.read(&mut [0]).await };
    tokio::select! {
        end = closed => assert!(matches!(end, Ok(0) | Err(_)), "{end:?}"),
        more = taken.next() => panic!("took {more:?} over the limit"),
    }
}

#[tokio::test]
async fn one_over_the_limit_is_closed_and_room_comes_back() {
    for (total, per_ip) in [(1, None), (10, Some(1))] {
        let limits = ConnectionLimits { total, per_ip, per_second: None };
        let (mut taken, address, refused) = entrance(Protocol::Grpc, limits).await;
        let _first = connect(address).await;
        let held = next(&mut taken).await;
        expect_refused(&mut taken, connect(address).await).await;
        assert_eq!(refused.get(), 1);
        drop(held);
        let _third = connect(address).await;
        next(&mut taken).await;
    }
}

/// A client and its connection.
async fn connected(protocol: Protocol) -> (TcpStream, Connection) {
    let (mut taken, address, _) = entrance(protocol, ConnectionLimits::default()).await;
    let client = connect(address).await;
    (client, next(&mut taken).await)
}

/// Expects that the connection ends by itself, after a patience that this cuts short.
async fn expect_timeout(connection: &mut Connection) {
    let soon = Duration::from_millis(20);
    match &mut connection.patience {
        Patience::Preface(_, sleep) => sleep.as_mut().reset(Instant::now() + soon),
        Patience::Request(within, sleep) => {
            *within = soon;
            sleep.as_mut().reset(Instant::now() + soon);
        }
        Patience::Nothing => panic!("it would wait for ever"),
    }
    let error = connection.read_u8().await.expect_err("nothing comes");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_grpc_client_owes_its_preface_and_then_nothing() {
    let (_client, mut silent) = connected(Protocol::Grpc).await;
    expect_timeout(&mut silent).await;

    let (mut client, mut half) = connected(Protocol::Grpc).await;
    client.write_all(&[1; PREFACE_BYTES - 1]).await.expect("sent");
    half.read_exact(&mut [0; PREFACE_BYTES - 1]).await.expect("there");
    expect_timeout(&mut half).await;

    let (mut client, mut whole) = connected(Protocol::Grpc).await;
    client.write_all(&[1; PREFACE_BYTES]).await.expect("sent");
    whole.read_exact(&mut [0; PREFACE_BYTES]).await.expect("there");
    assert!(matches!(whole.patience, Patience::Nothing), "it may rest for ever");
}

#[tokio::test]
async fn an_http_client_owes_a_request_each_time() {
    let (mut client, mut connection) = connected(Protocol::Http).await;
    client.write_all(b"GET").await.expect("sent");
    connection.read_exact(&mut [0; 3]).await.expect("there");
    let end = |connection: &Connection| match &connection.patience {
        Patience::Request(REQUEST, sleep) => sleep.deadline(),
        other => panic!("{other:?}"),
    };
    let before = end(&connection);
    connection.write_all(b"answer").await.expect("sent");
    assert!(end(&connection) > before, "counted from the answer");
    expect_timeout(&mut connection).await;
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_left() {
    let (_client, mut connection) = connected(Protocol::Http).await;
    let soon = Duration::from_millis(20);
    // The writes below poll it.
    connection.patience = Patience::Request(soon, Box::pin(sleep(soon)));
    let error = loop {
        if let Err(error) = connection.write_all(&[0; 8 << 10]).await {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}
