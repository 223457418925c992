//! Loopback TCP: 64 bytes there and back, alone and over 64 connections. Server and clients have
//! a thread each, as a shard and a load have.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Figures;
use crate::recorder::Latencies;

const MESSAGE: usize = 64;
const CONNECTIONS: usize = 64;

/// Measures echoes.
pub async fn measure(each: Duration, figures: &mut Figures) -> io::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    // It ends with its runtime, when `stop` is dropped.
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                served = serve(listener) => served,
                _ = stopped => Ok(()),
            }
        })
    });
    let (alone, latencies) = echoes(addr, 1, each).await?;
    let (p50, p99) = (latencies.percentile(50.0) as f64, latencies.percentile(99.0) as f64);
    figures.tell("loopback echo of 64 B, p50", p50, "us", "tcp_echo_p50_us");
    figures.tell("loopback echo of 64 B, p99", p99, "us", "tcp_echo_p99_us");
    figures.tell("loopback echoes, 1 connection", alone, "/s", "tcp_echo_1_per_s");
    let (many, _) = echoes(addr, CONNECTIONS, each).await?;
    figures.tell("loopback echoes, 64 connections", many, "/s", "tcp_echo_64_per_s");
    drop(stop);
    server.join().expect("the server does not panic")
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut message = [0; MESSAGE];
            while stream.read_exact(&mut message).await.is_ok() {
                if stream.write_all(&message).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Echoes a second over so many connections with one in flight each, and their latencies.
async fn echoes(
    addr: std::net::SocketAddr,
    connections: usize,
    each: Duration,
) -> io::Result<(f64, Latencies)> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for mut stream in streams {
        clients.spawn(async move {
            let (mut message, mut taken) = ([7; MESSAGE], Vec::new());
            while began.elapsed() < each {
                let sent = Instant::now();
                stream.write_all(&message).await?;
                stream.read_exact(&mut message).await?;
                taken.push(sent.elapsed().as_micros() as u64);
            }
            io::Result::Ok(taken)
        });
    }
    let (latencies, mut count) = (Latencies::new(), 0);
    while let Some(done) = clients.join_next().await {
        let taken = done.map_err(io::Error::other)??;
        count += taken.len();
        latencies.record_all(taken.into_iter());
    }
    Ok((count as f64 / began.elapsed().as_secs_f64(), latencies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn echoes_are_counted() {
        let mut figures = Figures::default();
        measure(Duration::from_millis(20), &mut figures).await.expect("loopback works");
        let told = figures.0["tcp_echo_64_per_s"].as_f64();
        assert!(told.is_some_and(|rate| rate > 0.0), "{figures:?}");
    }
}
