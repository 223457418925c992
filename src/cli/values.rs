//! Values of options as people write them: `512MiB`, `30s`, `on`.
//!
//! Each type is read from a flag, from the environment and from the configuration file by the same
//! parser, and its error says how the value is written.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A number of bytes: `512MiB`, `64k`, `1GB`; a bare number is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A length of time in milliseconds: `30s`, `1h30m`, `7d`. A bare number counts units of `BARE_MS`
/// milliseconds; where that is 0, it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting<const BARE_MS: u64>(pub u64);

/// `on` or `off`; `true`, `false`, `1`, `0`, `yes` and `no` are understood as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_number(text);
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1_u64,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => 0,
        };
        let size = if unit == 0 { None } else { scaled(number, unit) };
        size.map(Self).ok_or_else(|| "a size is written like 512MiB, 64KiB or 1GB".into())
    }
}

impl<const BARE_MS: u64> FromStr for Lasting<BARE_MS> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_lasting(text.trim(), BARE_MS).map(Self).ok_or_else(|| {
            let bare = match BARE_MS {
                0 => ", with its unit",
                1 => "; a bare number is milliseconds",
                3_600_000 => "; a bare number is hours",
                _ => "",
            };
            format!("a duration is written like 500ms, 30s, 1h30m or 7d{bare}")
        })
    }
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Ok(Self(true)),
            "off" | "false" | "no" | "0" => Ok(Self(false)),
            _ => Err("say on or off".into()),
        }
    }
}

/// Takes the leading digits (and one point) off.
fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// `number` times `unit`; a fraction is taken exactly to nine digits, rounded down.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(fraction.len() as u32);
    let value = u128::from(whole.parse::<u64>().ok()?) * scale + fraction.parse::<u128>().ok()?;
    u64::try_from(value * u128::from(unit) / scale).ok()
}

fn parse_lasting(text: &str, bare_ms: u64) -> Option<u64> {
    if bare_ms > 0 && split_number(text).1.is_empty() {
        return scaled(text, bare_ms);
    }
    let (mut rest, mut total) = (text, 0_u64);
    loop {
        let (number, tail) = split_number(rest);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, unit)?)?;
        rest = tail;
        if rest.is_empty() {
            return Some(total);
        }
    }
}

/// Reads a value of the configuration file: text, or a bare number or truth value as if written.
struct Written<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value as the flag takes it")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        self.visit_str(if value { "on" } else { "off" })
    }
}

macro_rules! from_file {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(Written(std::marker::PhantomData))
            }
        }
    )*};
}

from_file!(Size, Switch);

impl<'de, const BARE_MS: u64> Deserialize<'de> for Lasting<BARE_MS> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Written(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Option<u64> {
        text.parse::<Size>().ok().map(|size| size.0)
    }

    fn lasting<const BARE_MS: u64>(text: &str) -> Option<u64> {
        text.parse::<Lasting<BARE_MS>>().ok().map(|lasting| lasting.0)
    }

    #[test]
    fn sizes() {
        assert_eq!(size("512MiB"), Some(512 << 20));
        assert_eq!(size("536870912"), Some(512 << 20));
        assert_eq!(size("64k"), Some(64 << 10));
        assert_eq!(size("1.5 GiB"), Some(3 << 29));
        assert_eq!(size("1GB"), Some(1_000_000_000));
        assert_eq!(size("18446744073709551615"), Some(u64::MAX));
        for bad in ["", "MiB", "-1", "1.MiB", ".5M", "12XB", "1e3", "18446744073709551616", "9e99T"]
        {
            assert_eq!(size(bad), None, "{bad}");
        }
        assert_eq!(size("99999999999TiB"), None, "too large is refused, never wrapped");
    }

    #[test]
    fn durations() {
        assert_eq!(lasting::<0>("30s"), Some(30_000));
        assert_eq!(lasting::<0>("500ms"), Some(500));
        assert_eq!(lasting::<0>("1h30m"), Some(5_400_000));
        assert_eq!(lasting::<0>("1h0m0s"), Some(3_600_000));
        assert_eq!(lasting::<0>("1.5s"), Some(1_500));
        assert_eq!(lasting::<0>("7d"), Some(7 * 86_400_000));
        assert_eq!(lasting::<0>("0s"), Some(0));
        for bad in ["", "30", "s", "-5s", "3x", "1h30", "5s!", "99999999999999999999s"] {
            assert_eq!(lasting::<0>(bad), None, "{bad}");
        }
    }

    #[test]
    fn bare_durations_count_their_own_unit() {
        assert_eq!(lasting::<3_600_000>("168"), Some(168 * 3_600_000));
        assert_eq!(lasting::<3_600_000>("90m"), Some(5_400_000));
        assert_eq!(lasting::<1>("1000"), Some(1_000));
        assert_eq!(lasting::<1>(""), None);
    }

    #[test]
    fn switches() {
        for (text, value) in [("on", true), ("TRUE", true), ("0", false), ("off", false)] {
            assert_eq!(text.parse(), Ok(Switch(value)));
        }
        assert!("maybe".parse::<Switch>().is_err());
    }
}
