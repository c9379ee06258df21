# `make test` runs every test, also those with real parts: the services of docs/recipes/, clients in Python and Node, two OIDC
# issuers, Chromium, Firefox, a clock that is stepped. What they need is installed first (Debian packages as root; Python and npm packages
# under target/real/). `cargo test` runs everything that needs only a Rust toolchain and a C compiler.
.POSIX:

REAL = target/real

.PHONY: test test-buffered test-http2 quick check doc autobahn bench http2 expiry renewals forged micro instructions real \
	clean-real

test: real
	cd clients/js && npm test
	cargo test --locked --features real,bench

# The same tests, but those with real parts, while tokio-rustls serves the clients. Two bounds on memory are left out: its
# buffers are larger.
test-buffered:
	cargo test --locked --features buffered-tls

# What streams promise, over HTTP/2: suites whose clients speak HTTP/1.1 otherwise. Left out are crowds with a connection each,
# and what they cost. (The features are those of `make test`, so that nothing is built twice; nothing real takes part.)
test-http2:
	TEST_HTTP2=1 cargo test --locked --features real,bench --test expiry --test renewal --test renewal_in_band --test reject_close \
		--test first_message --test revocation --test tickets --test identity --test life --test admission \
		-- --skip expire_together --skip a_stream_that_waits_is_cheap --skip a_thousand_live_streams

quick:
	cargo test --locked

check:
	cargo fmt --all -- --check
	cargo clippy --locked --all-targets --all-features -- -D warnings

doc:
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps

# Autobahn|Testsuite through the gateway. AUTOBAHN=FOLDER names a folder where `wstest` is, or is to be set up.
autobahn:
	cargo build --locked --release
	tests/real/autobahn.sh

# The gateway beside HAProxy and nginx (docs/performance.md). Two builds: with the load generator's own dependencies the
# gateway would get another runtime than it is shipped with.
ROUNDS = 5
SECONDS = 2
bench:
	cargo build --locked --release --bin portcullis
	cargo build --locked --release --features bench --example load
	benches/compare.py --rounds $(ROUNDS) --seconds $(SECONDS)

# The same over HTTP/2, with Envoy and Caddy beside them; Python packages under target/peers/.
http2:
	cargo build --locked --release --bin portcullis
	cargo build --locked --release --features bench --example load
	benches/http2.py --rounds $(ROUNDS) --seconds $(SECONDS)

# Nine thousand streams that expire in the same second, and what others feel of it; about a minute for each run.
EXPIRY_ROUNDS = 3
expiry:
	cargo build --locked --release --bin portcullis
	cargo build --locked --release --features bench --example load
	benches/expiry.py --rounds $(EXPIRY_ROUNDS)

# Five thousand streams, each renewed every five seconds for a minute; two minutes in all.
renewals:
	cargo build --locked --release --bin portcullis
	cargo build --locked --release --features bench --example load
	benches/renewals.py

# Forged RS256 tokens, 400 a second, beside live streams; then 200 random key names a second, and who fetches keys for them.
FORGED_ROUNDS = 3
forged:
	cargo build --locked --release --bin portcullis
	cargo build --locked --release --features bench --example load
	benches/forged.py --rounds $(FORGED_ROUNDS)
	benches/forged.py --rounds $(FORGED_ROUNDS) --url

# Single parts of the data path, by time and by instructions.
micro:
	cargo bench --locked --features bench --bench scan --bench verify --bench relay

instructions:
	benches/instructions.sh

# What the tests with real parts need.
real:
	@tests/real/install.sh $(REAL)

clean-real:
	rm -rf $(REAL)
