//! Numbers in the bytes of files, which are little endian.
//!
//! Whoever calls has checked that a number lies inside: there is no error.

/// The two bytes at `at` as a number.
#[inline]
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*chunk_at(bytes, at))
}

/// The four bytes at `at` as a number.
#[inline]
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*chunk_at(bytes, at))
}

/// The eight bytes at `at` as a number.
#[inline]
#[must_use]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*chunk_at(bytes, at))
}

#[inline]
fn chunk_at<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("it lies inside")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_counts_most() {
        let bytes = [9, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(u16_at(&bytes, 1), 0x0201);
        assert_eq!(u32_at(&bytes, 1), 0x0403_0201);
        assert_eq!(u64_at(&bytes, 1), 0x0807_0605_0403_0201);
    }

    #[test]
    #[should_panic(expected = "it lies inside")]
    fn half_a_number_is_none() {
        let _ = u32_at(&[1, 2, 3], 0);
    }
}
