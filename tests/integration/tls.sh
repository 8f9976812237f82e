# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Certificates and keys for tests of TLS; sourced.

# Two authorities, a server, and clients: alice is ours, mallory is the other one's.
make_certificates() {
    local who ca
    mkdir -p pki/server pki/alice pki/mallory pki/none
    for ca in ca other; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$ca" \
            -keyout "pki/$ca.key" -out "pki/$ca.pem" 2>/dev/null
    done
    for who in server:ca alice:ca mallory:other; do
        ca=${who#*:} who=${who%:*}
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$who" \
            -keyout "pki/$who.key" -out "pki/$who.csr" 2>/dev/null
        openssl x509 -req -in "pki/$who.csr" -CA "pki/$ca.pem" -CAkey "pki/$ca.key" -days 2 \
            -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1") -out "pki/$who.pem" 2>/dev/null
        [ "$who" = server ] && continue
        cp "pki/$who.pem" "pki/$who/client-cert.pem"
        cp "pki/$who.key" "pki/$who/client-key.pem"
        cp pki/ca.pem "pki/$who/ca-cert.pem"
    done
    cp pki/ca.pem pki/none/ca-cert.pem
    cp pki/ca.pem pki/server/ca-cert.pem
    cp pki/server.pem pki/server/server-cert.pem
    cp pki/server.key pki/server/server-key.pem
    echo "alice:$(openssl rand -hex 32)" >pki/keys.psk
    echo "bob:$(openssl rand -hex 32)" >pki/other.psk
}
