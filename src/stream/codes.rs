//! What a side is told when a stream ends: code and reason per cause, settable per route.

use crate::stream::CloseReason;
use crate::ws::CloseText;

/// A ready-made set of codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// IANA's registered codes.
    #[default]
    Generic,
    /// For graphql-ws, whose client takes 4400, 4401 and most codes below 2000 for final, and comes back after 4403.
    GraphqlWs,
    /// For centrifuge, whose client takes 3500 to 3999 for final, and comes back after most others.
    Centrifuge,
}

/// Why a client that has its `101` is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token has expired.
    Expired,
    /// The token, or where it comes from, may not do this.
    Forbidden,
    /// The first message is not what it must be.
    FirstMessage,
    /// The token was revoked.
    Revoked,
    /// No token, or one that does not count.
    Unauthorized,
    /// Too many streams, or no service.
    Unavailable,
}

/// The Close that the client gets, per cause. The default is the preset `generic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseCodes {
    /// The token has expired.
    pub expired: CloseText,
    /// The token was revoked.
    pub revoked: CloseText,
    /// The key that has signed the token is no longer its issuer's.
    pub key_removed: CloseText,
    /// The stream has lived as long as the route allows.
    pub stream_limit: CloseText,
    /// Nothing was heard for too long.
    pub idle: CloseText,
    /// The gateway is leaving, the route went away, or an operator has ended the stream.
    pub drain: CloseText,
    /// A frame or message is too large.
    pub too_big: CloseText,
    /// Too many messages or bytes.
    pub rate_limited: CloseText,
    /// A newer stream of the same principal has its place.
    pub replaced: CloseText,
    /// A frame breaks RFC 6455.
    pub protocol: CloseText,
    /// The service's connection ended without a Close.
    pub upstream_lost: CloseText,
    /// No token, or one that does not count. An empty reason, here and in the next three, stands for the public reason
    /// of the refusal.
    pub unauthorized: CloseText,
    /// The token, or where it comes from, may not do this.
    pub forbidden: CloseText,
    /// Too many streams, or no service.
    pub unavailable: CloseText,
    /// The first message is not what it must be.
    pub first_message: CloseText,
    /// No first message came in time.
    pub auth_timeout: CloseText,
}

impl Default for CloseCodes {
    fn default() -> Self {
        Self::preset(Preset::Generic)
    }
}

impl CloseCodes {
    /// The codes of a preset.
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::Generic => Self::generic(),
            Preset::GraphqlWs => Self {
                expired: CloseText::known(4403, "token expired"),
                revoked: CloseText::known(4401, "token revoked"),
                key_removed: CloseText::known(4403, "key removed"),
                stream_limit: CloseText::known(4403, "stream limit"),
                rate_limited: CloseText::known(1013, "rate limited"),
                unauthorized: CloseText::known(4401, ""),
                forbidden: CloseText::known(4401, ""),
                first_message: CloseText::known(4400, ""),
                ..Self::generic()
            },
            Preset::Centrifuge => Self {
                expired: CloseText::known(3005, "token expired"),
                revoked: CloseText::known(3500, "token revoked"),
                key_removed: CloseText::known(3005, "key removed"),
                stream_limit: CloseText::known(3005, "stream limit"),
                rate_limited: CloseText::known(1013, "rate limited"),
                replaced: CloseText::known(3500, "replaced"),
                protocol: CloseText::known(3500, "protocol error"),
                unauthorized: CloseText::known(3500, ""),
                forbidden: CloseText::known(3500, ""),
                first_message: CloseText::known(3500, ""),
                ..Self::generic()
            },
        }
    }

    fn generic() -> Self {
        Self {
            expired: CloseText::known(3000, "token expired"),
            revoked: CloseText::known(3003, "token revoked"),
            key_removed: CloseText::known(3000, "key removed"),
            stream_limit: CloseText::known(3000, "stream limit"),
            idle: CloseText::known(3008, "idle"),
            drain: CloseText::known(1012, "service restart"),
            too_big: CloseText::known(1009, "too big"),
            rate_limited: CloseText::known(1008, "rate limited"),
            // Final for clients, since two that always come back would push each other out for ever.
            replaced: CloseText::known(1008, "replaced"),
            protocol: CloseText::known(1002, "protocol error"),
            upstream_lost: CloseText::known(1013, "upstream lost"),
            unauthorized: CloseText::known(3000, ""),
            forbidden: CloseText::known(3003, ""),
            unavailable: CloseText::known(1013, ""),
            first_message: CloseText::known(1008, ""),
            auth_timeout: CloseText::known(3008, "no first message"),
        }
    }

    /// What a client that is refused after its `101` is told; `reason` is the public reason. An expired or revoked token
    /// has the code of a stream that ends for it.
    pub fn refused(&self, refusal: Refusal, reason: &'static str) -> CloseText {
        match refusal {
            Refusal::Expired => self.expired.with_reason(reason),
            Refusal::Revoked => self.revoked.with_reason(reason),
            Refusal::Forbidden => self.forbidden.or_reason(reason),
            Refusal::FirstMessage => self.first_message.or_reason(reason),
            Refusal::Unauthorized => self.unauthorized.or_reason(reason),
            Refusal::Unavailable => self.unavailable.or_reason(reason),
        }
    }

    /// What the client is told when the stream ends for `reason`. For a cause in which the client has closed or is
    /// gone, nothing of ours is sent first; the text then only serves as an answer.
    pub fn downstream(&self, reason: CloseReason) -> &CloseText {
        match reason {
            CloseReason::Expired => &self.expired,
            CloseReason::Revoked => &self.revoked,
            CloseReason::KeyRemoved => &self.key_removed,
            CloseReason::StreamLimit => &self.stream_limit,
            CloseReason::Idle => &self.idle,
            CloseReason::Drain | CloseReason::RouteGone | CloseReason::EndedByOperator => &self.drain,
            CloseReason::TooBig => &self.too_big,
            CloseReason::RateLimited => &self.rate_limited,
            CloseReason::Replaced => &self.replaced,
            CloseReason::ClientProtocol | CloseReason::UpstreamProtocol => &self.protocol,
            CloseReason::UpstreamLost
            | CloseReason::UpstreamClosed
            | CloseReason::ClientClosed
            | CloseReason::ClientLost => &self.upstream_lost,
        }
    }
}

/// What the service is told whenever the gateway ends a stream: the client is going away (RFC 6455, section 7.4.1).
pub const UPSTREAM: CloseText = CloseText::known(1001, "");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graphql_ws_client_comes_back_exactly_where_it_should() {
        // What that client takes for final (graphql-ws 6, src/client.ts).
        let fatal = |text: &CloseText| match text.code() {
            4400 | 4401 | 4406 | 4409 | 4429 | 4500 | 4004 | 4005 => true,
            1000 | 1001 | 1005 | 1006 | 1012 | 1013 | 1014 => false,
            code => (1000..2000).contains(&code),
        };
        comes_back(&CloseCodes::preset(Preset::GraphqlWs), fatal);
    }

    #[test]
    fn a_centrifuge_client_comes_back_exactly_where_it_should() {
        // What that client takes for final (centrifuge-js 5, src/centrifuge.ts).
        let fatal = |text: &CloseText| matches!(text.code(), 1009 | 3500..4000 | 4500..5000);
        comes_back(&CloseCodes::preset(Preset::Centrifuge), fatal);
    }

    fn comes_back(codes: &CloseCodes, fatal: impl Fn(&CloseText) -> bool) {
        let back = [
            &codes.expired,
            &codes.key_removed,
            &codes.stream_limit,
            &codes.idle,
            &codes.auth_timeout,
            &codes.drain,
            &codes.rate_limited,
            &codes.upstream_lost,
            &codes.unavailable,
        ];
        assert!(back.iter().all(|text| !fatal(text)), "{codes:?}");
        let stays = [
            &codes.revoked,
            &codes.replaced,
            &codes.too_big,
            &codes.protocol,
            &codes.unauthorized,
            &codes.forbidden,
            &codes.first_message,
        ];
        assert!(stays.iter().all(|text| fatal(text)), "{codes:?}");
        assert!(!fatal(&codes.refused(Refusal::Expired, "token_expired")));
    }

    #[test]
    fn a_refusal_tells_its_public_reason_unless_the_route_has_one_of_its_own() {
        let mut codes = CloseCodes::default();
        let told = |codes: &CloseCodes, refusal, reason| {
            let text = codes.refused(refusal, reason);
            (text.code(), text.reason().to_owned())
        };
        assert_eq!(told(&codes, Refusal::Unauthorized, "token_missing"), (3000, "token_missing".into()));
        assert_eq!(told(&codes, Refusal::Expired, "token_expired"), (3000, "token_expired".into()));
        assert_eq!(told(&codes, Refusal::Revoked, "token_revoked"), (3003, "token_revoked".into()));
        codes.forbidden = CloseText::new(4403, "go away").unwrap();
        assert_eq!(told(&codes, Refusal::Forbidden, "forbidden"), (4403, "go away".into()));
    }
}
