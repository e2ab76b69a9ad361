//! Bearer tokens that the owner of the server hands out, known only by their hashes.

use std::sync::RwLock;

use sha2::{Digest, Sha256};

use super::User;
use crate::config::Token;

const LOCK: &str = "no code panics while it holds the lock of the tokens";

#[derive(Debug)]
pub(super) struct StaticTokens(RwLock<Vec<Token>>);

impl StaticTokens {
    pub(super) fn new(tokens: Vec<Token>) -> Self {
        Self(RwLock::new(tokens))
    }

    /// Lets exactly these tokens in from now on.
    pub(super) fn set(&self, tokens: Vec<Token>) {
        *self.0.write().expect(LOCK) = tokens;
    }

    /// The owner of a token.
    pub(super) fn owner(&self, secret: &str) -> Option<User> {
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let tokens = self.0.read().expect(LOCK);
        // Every token is compared in full, so that time tells nothing.
        let mut found = None;
        for token in tokens.iter() {
            if equal(&token.sha256, &hash) {
                found = Some(token);
            }
        }
        found.map(|token| User {
            extra: token.extra.clone(),
            ..User::new(token.name.clone(), token.groups.clone())
        })
    }
}

fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}
