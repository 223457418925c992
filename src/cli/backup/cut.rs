//! Asks a running server where a copy of its data directory would end now.
//!
//! One HTTP request over a plain socket. What comes back is bounded and compared with the data
//! directory before a file of it is opened: another server's cut would cut nothing of ours.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use crate::base::limits::BACKUP_TEXT_BYTES;
use crate::control::backup::{CutAnswer, PATH, PartitionCut, Refusal, VERSION, identity};

/// Time for the connection, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The cut of the directory `data`, which has so many partitions, from the server whose HTTP
/// listener is `address`. An error is one sentence that says what to do.
pub fn ask(address: &str, data: &Path, partitions: u16) -> Result<CutAnswer, String> {
    let (status, body) = get(address)?;
    let answer = read_answer(status, &body, address)?;
    let own =
        identity(data).map_err(|error| format!("cannot look at {}: {error}", data.display()))?;
    if answer.identity != own {
        return Err(format!(
            "the server at {address} serves {}, not {}; name the HTTP listener of the one that \
             does with --http-addr, or its directory with --data-dir",
            answer.data_dir,
            data.display()
        ));
    }
    let dense = answer.partitions.iter().map(|cut| cut.partition).eq(0..partitions);
    let whole = |cut: &PartitionCut| !cut.segments.is_empty();
    if !dense || !answer.partitions.iter().all(whole) {
        return Err(format!(
            "the server at {address} does not name the log of each of {partitions} partitions: it \
             is of another version; run the `chronosdb backup` of that"
        ));
    }
    Ok(answer)
}

fn read_answer(status: u16, body: &[u8], address: &str) -> Result<CutAnswer, String> {
    if status != 200 {
        return Err(match serde_json::from_slice::<Refusal>(body) {
            Ok(Refusal { error }) if status == 409 => format!(
                "{error}; stop the server, and the backup copies the damage as it is, or see \
                 `chronosdb log verify`"
            ),
            Ok(Refusal { error }) => format!("no backup now: {error}; try again"),
            Err(_) => format!(
                "{address} answers {PATH} with status {status}: name the HTTP listener of a \
                 server of this version with --http-addr"
            ),
        });
    }
    let other = |why: String| {
        format!("the answer of {address} is not understood ({why}); run the backup of its version")
    };
    let value: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| other(error.to_string()))?;
    if value["version"] != VERSION {
        return Err(other(format!("version {} instead of {VERSION}", value["version"])));
    }
    serde_json::from_value(value).map_err(|error| other(error.to_string()))
}

/// Status and body of [`PATH`].
fn get(address: &str) -> Result<(u16, Vec<u8>), String> {
    let fault = |error: std::io::Error| match error.kind() {
        ErrorKind::ConnectionRefused => format!(
            "the data directory is in use, and no server listens on {address}; name its HTTP \
             listener with --http-addr"
        ),
        _ => format!("cannot ask {address}: {error}; name the HTTP listener with --http-addr"),
    };
    let mut stream = connect(address).map_err(fault)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(fault)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(fault)?;
    let host = address.trim_start_matches(':');
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(fault)?;
    let mut answer = Vec::new();
    let most = BACKUP_TEXT_BYTES as u64 + 1;
    stream.take(most).read_to_end(&mut answer).map_err(fault)?;
    let parsed = if answer.len() as u64 == most { None } else { parse(&answer) };
    parsed.ok_or_else(|| {
        format!("{address} does not speak HTTP as expected; it is on port 8080 by default")
    })
}

/// Connected to the first of the address's meanings that listens.
fn connect(address: &str) -> std::io::Result<TcpStream> {
    let mut refused = ErrorKind::NotFound.into();
    for found in resolve(address)? {
        match TcpStream::connect_timeout(&found, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// What an address may mean; one that stands for all interfaces is this machine.
fn resolve(address: &str) -> std::io::Result<Vec<SocketAddr>> {
    let given = address;
    let address = if given.starts_with(':') { format!("127.0.0.1{given}") } else { given.into() };
    let own = |mut found: SocketAddr| {
        match found.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => found.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => found.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        found
    };
    Ok(address.to_socket_addrs()?.map(own).collect())
}

/// Status and body of an answer that is all there.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    // Shorter: the connection broke.
    (length? == body.len()).then(|| (status, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_if_it_is_whole() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nx: y\r\n\r\n{}";
        assert_eq!(parse(answer), Some((503, b"{}".to_vec())));
        assert_eq!(parse(&answer[..answer.len() - 1]), None);
        assert_eq!(parse(b"220 mail.example ESMTP\r\n\r\n"), None);
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }

    #[test]
    fn all_interfaces_are_this_machine() {
        for (given, meant) in [
            (":8080", "127.0.0.1:8080"),
            ("0.0.0.0:81", "127.0.0.1:81"),
            ("[::]:81", "[::1]:81"),
            ("127.0.0.2:1", "127.0.0.2:1"),
        ] {
            let found = resolve(given).expect("an address");
            assert_eq!(found, [meant.parse().expect("an address")]);
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let refusal =
            |status, body: &str| read_answer(status, body.as_bytes(), "h:1").expect_err("refused");
        let why = refusal(409, "{\"error\":\"partition 3 is damaged\"}");
        assert!(why.starts_with("partition 3 is damaged; stop the server"), "{why}");
        assert!(refusal(503, "{\"error\":\"x\"}").ends_with("x; try again"));
        assert!(refusal(404, "nothing").contains("--http-addr"));
        assert!(refusal(200, "{\"version\":2}").contains("version 2 instead of 1"));
        assert!(refusal(200, "{\"version\":1}").contains("data_dir"));
    }
}
