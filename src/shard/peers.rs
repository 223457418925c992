//! Who may connect: connections counted by the address they come from, and how fast they come.
//!
//! Both are an operator's choice ([`ConnectionLimits`]). A bound per address keeps one host from
//! taking every place of a node; a rate keeps a flood of connections that come and go from taking
//! the time of those that stay. Each shard has its share of both, the gRPC and the HTTP listener
//! have all of it each.

use std::net::{IpAddr, Ipv6Addr};

use ahash::AHashMap;

use crate::base::config::ConnectionLimits;

/// The part of an IPv6 address that a host can't choose at will: its network of 64 bits.
const IPV6_NETWORK: u128 = !0 << 64;

/// Open connections by the address they come from. Counts only if there is a bound.
#[derive(Debug)]
pub struct Peers {
    most: Option<usize>,
    open: AHashMap<IpAddr, usize>,
}

impl Peers {
    /// With this many connections per address at most.
    #[must_use]
    pub fn new(most: Option<usize>) -> Self {
        assert!(most != Some(0), "a bound of none at all would refuse everybody");
        Self { most, open: AHashMap::new() }
    }

    /// A connection comes; whether it may stay. If so, [`Peers::leave`] has to follow once.
    pub fn enter(&mut self, ip: IpAddr) -> bool {
        let Some(most) = self.most else { return true };
        let open = self.open.entry(host(ip)).or_default();
        if *open >= most {
            return false;
        }
        *open += 1;
        true
    }

    /// A connection that was let in has ended.
    ///
    /// # Panics
    /// If none from there is open.
    pub fn leave(&mut self, ip: IpAddr) {
        if self.most.is_none() {
            return;
        }
        let host = host(ip);
        let open = self.open.get_mut(&host).expect("who leaves has entered");
        *open -= 1;
        if *open == 0 {
            self.open.remove(&host);
        }
    }
}

/// What counts as one host.
fn host(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & IPV6_NETWORK).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

/// How fast connections are taken: a second's worth at once, then one by one.
#[derive(Clone, Copy, Debug)]
pub struct AcceptRate {
    per_s: u64,
    /// When the bucket is full again, boot time, us.
    full_at_us: u64,
}

impl AcceptRate {
    /// So many connections a second; `None`: as fast as they come.
    #[must_use]
    pub fn new(per_s: Option<usize>) -> Self {
        Self { per_s: per_s.unwrap_or(0) as u64, full_at_us: 0 }
    }

    /// One is taken now (boot time, us). Returns how long the next one has to wait, us.
    pub fn taken(&mut self, now_us: u64) -> u64 {
        if self.per_s == 0 {
            return 0;
        }
        let each = 1_000_000 / self.per_s;
        self.full_at_us = self.full_at_us.max(now_us) + each;
        (self.full_at_us + each).saturating_sub(now_us + 1_000_000)
    }
}

impl ConnectionLimits {
    /// What one of `shards` shards takes of it: its part, but one at least.
    pub(super) fn share(self, shards: u16) -> Self {
        let of = |all: usize| all.div_ceil(usize::from(shards)).max(1);
        let total = (self.total / usize::from(shards)).max(1);
        Self { total, per_ip: self.per_ip.map(of), per_second: self.per_second.map(of) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_host_takes_no_more_than_its_part() {
        let mut peers = Peers::new(Some(2));
        assert!(peers.enter(ip("10.0.0.1")) && peers.enter(ip("10.0.0.1")));
        assert!(!peers.enter(ip("10.0.0.1")), "one beyond");
        assert!(!peers.enter(ip("::ffff:10.0.0.1")), "the same host by another name");
        assert!(peers.enter(ip("10.0.0.2")), "others are not concerned");
        peers.leave(ip("::ffff:10.0.0.1"));
        assert!(peers.enter(ip("10.0.0.1")), "room comes back");
        for from in ["10.0.0.1", "10.0.0.1", "10.0.0.2"] {
            peers.leave(ip(from));
        }
        assert!(peers.open.is_empty(), "nothing is kept of those who left");
    }

    #[test]
    fn a_network_of_ipv6_is_one_host() {
        let mut peers = Peers::new(Some(1));
        assert!(peers.enter(ip("2001:db8:1:2::1")));
        assert!(!peers.enter(ip("2001:db8:1:2:ffff::9")));
        assert!(peers.enter(ip("2001:db8:1:3::1")));
    }

    #[test]
    fn without_a_bound_nothing_is_counted() {
        let mut peers = Peers::new(None);
        assert!((0..1_000).all(|_| peers.enter(ip("10.0.0.1"))));
        assert!(peers.open.is_empty());
        peers.leave(ip("10.0.0.1"));
    }

    #[test]
    fn a_flood_is_slowed_to_its_rate() {
        let mut rate = AcceptRate::new(Some(100));
        let mut now = 5_000_000;
        assert!((0..99).all(|_| rate.taken(now) == 0), "a second's worth at once");
        for _ in 0..1_000 {
            let wait = rate.taken(now);
            assert!(wait > 0);
            now += wait;
        }
        assert!((14_900_000..=15_100_000).contains(&now), "then 100 a second: {now}");
        now += 1_000_000;
        assert!((0..99).all(|_| rate.taken(now) == 0), "after a rest, again");
        let mut free = AcceptRate::new(None);
        assert!((0..10_000).all(|_| free.taken(now) == 0));
    }

    #[test]
    fn each_shard_has_its_share() {
        let limits = ConnectionLimits { total: 10_000, per_ip: Some(5), per_second: Some(1) };
        let share = limits.share(3);
        assert_eq!((share.total, share.per_ip, share.per_second), (3_333, Some(2), Some(1)));
        assert_eq!(ConnectionLimits { total: 1, ..limits }.share(3).total, 1);
    }
}
