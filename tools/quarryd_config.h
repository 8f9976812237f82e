/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What quarryd is told: a small YAML file and flags, which have the same names.  A flag overrides
 * the file; listen and import add to it.  Every mistake is an error that says where it is and what
 * would be right.
 */
#ifndef QUARRY_TOOLS_QUARRYD_CONFIG_H
#define QUARRY_TOOLS_QUARRYD_CONFIG_H

#include <stdio.h>

#include "core/base/diag.h"
#include "core/base/error.h"
#include "frontends/nbd/nbd_server_access.h"
#include "frontends/nbd/nbd_uri.h"

enum {
	REACTORS_MAX = 64,
};

#define NODE_CACHE_BYTES_MIN (4 * MIB)
#define BUFFER_MEMORY_BYTES_MIN (64 * MIB)

struct daemon_config {
	bool help;
	bool version;
	char *config_path; /* NULL: none */
	char *socket_path;
	char *socket_group; /* NULL: only the daemon's user may administer */
	char **listen;      /* URIs, valid ones */
	bool iscsi_default_targets;
	size_t listen_count;
	enum nbd_tls_policy tls; /* where a URI does not say */
	char *tls_certificates;  /* a folder; NULL: none */
	char *tls_psk_file;      /* NULL: none */
	bool tls_verify_peer;
	bool tls_kernel;
	char **import;
	size_t import_count;
	struct nbd_access_rule *access;
	size_t access_count;
	uint32_t connections; /* at once; 0 in these: the default */
	uint32_t connections_per_client;
	uint32_t handshake_timeout_s;
	uint32_t idle_timeout_s;
	uint32_t remote_timeout_s;
	uint32_t stall_timeout_s;
	uint64_t node_cache_bytes;
	uint64_t buffer_memory_bytes;
	uint32_t reactors;
	bool cache_kernel;
	enum diag_level log_level;
	unsigned set; /* private: by a flag, so that the file does not matter */
};

/*
 * Reads the flags, and the file that they name, into @config.  0, or a negative error whose text is
 * for the operator: -EINVAL for wrong usage, others if the file cannot be read.  In either case
 * daemon_config_fini().
 */
int daemon_config_load(
    struct daemon_config *config, int argc, char **argv, struct error *error) must_check;
void daemon_config_fini(struct daemon_config *config);

/* Applies the text of a file named @path; for daemon_config_load() and tests. */
void daemon_config_init(struct daemon_config *config);
int daemon_config_parse_yaml(struct daemon_config *config, const char *path, const char *text,
    size_t len_bytes, struct error *error) must_check;

/* Whether a listen URI is one of the iSCSI server. */
bool daemon_uri_is_iscsi(const char *uri);

void daemon_config_print_help(FILE *out);

#endif
