/* SPDX-License-Identifier: Apache-2.0 */
/* One table of settings serves the file and the flags: each takes its value from a text. */
#include "tools/quarryd_config.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <yaml.h>

#include "core/base/size.h"
#include "frontends/admin/admin_socket.h"
#include "frontends/iscsi/iscsi_server.h"
#include "tools/quarryd_systemd.h"

enum {
	CONFIG_BYTES_MAX = 1 << 20,
	CONNECTIONS_MAX = 65536,
	TIMEOUT_S_MAX = 1000000,
};

#define NODE_CACHE_BYTES_DEFAULT_MIN (64 * MIB)
#define BUFFER_MEMORY_BYTES_DEFAULT (256 * MIB)

/* --- settings --- */

static void
append(char ***list, size_t *count, const char *value)
{
	*list = xrealloc(*list, (*count + 1) * sizeof(**list));
	(*list)[(*count)++] = xstrdup(value);
}

bool
daemon_uri_is_iscsi(const char *uri)
{
	return strncmp(uri, "iscsi", 5) == 0;
}

static int
set_listen(struct daemon_config *config, const char *value, struct error *error)
{
	struct nbd_address address;
	int rc = daemon_uri_is_iscsi(value) ? iscsi_uri_check(value, error)
					    : nbd_address_parse(&address, value, error);

	if (!rc)
		append(&config->listen, &config->listen_count, value);
	return rc;
}

static int
set_import(struct daemon_config *config, const char *value, struct error *error)
{
	append(&config->import, &config->import_count, value);
	return 0;
}

static int
set_export(struct daemon_config *config, const char *value, struct error *error)
{
	struct nbd_access_rule rule;
	int rc = nbd_access_parse(&rule, value, error);

	if (rc)
		return rc;
	config->access =
	    xrealloc(config->access, (config->access_count + 1) * sizeof(*config->access));
	config->access[config->access_count++] = rule;
	return 0;
}

static void
replace(char **text, const char *value)
{
	free(*text);
	*text = xstrdup(value);
}

static int
set_socket(struct daemon_config *config, const char *value, struct error *error)
{
	struct sockaddr_un address;
	int rc = admin_socket_address(value, &address, error);

	if (!rc)
		replace(&config->socket_path, value);
	return rc;
}

static int
set_socket_group(struct daemon_config *config, const char *value, struct error *error)
{
	replace(&config->socket_group, value);
	return 0;
}

static int
take_on_off(bool *on, const char *value, struct error *error)
{
	*on = strcmp(value, "on") == 0;
	if (!*on && strcmp(value, "off") != 0)
		return error_set(error, -EINVAL, "\"%.40s\" is neither on nor off", value);
	return 0;
}

static int
set_tls(struct daemon_config *config, const char *value, struct error *error)
{
	return nbd_tls_policy_parse(value, &config->tls, error);
}

static int
set_tls_certificates(struct daemon_config *config, const char *value, struct error *error)
{
	replace(&config->tls_certificates, value);
	return 0;
}

static int
set_tls_psk_file(struct daemon_config *config, const char *value, struct error *error)
{
	replace(&config->tls_psk_file, value);
	return 0;
}

static int
set_tls_verify_peer(struct daemon_config *config, const char *value, struct error *error)
{
	return take_on_off(&config->tls_verify_peer, value, error);
}

static int
set_tls_kernel(struct daemon_config *config, const char *value, struct error *error)
{
	return take_on_off(&config->tls_kernel, value, error);
}

static int
take_size(uint64_t *bytes, uint64_t bytes_min, const char *value, struct error *error)
{
	char text[SIZE_TEXT_BYTES];
	uint64_t parsed;
	int rc = size_parse(value, &parsed, error);

	if (rc)
		return rc;
	if (parsed < bytes_min)
		return error_set(error, -EINVAL, "\"%.40s\" is too small; at least %s are needed",
		    value, size_format(bytes_min, text));
	*bytes = parsed;
	return 0;
}

static uint64_t
memory_bytes(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int
set_node_cache(struct daemon_config *config, const char *value, struct error *error)
{
	int rc = take_size(&config->node_cache_bytes, NODE_CACHE_BYTES_MIN, value, error);
	char wanted[SIZE_TEXT_BYTES], there[SIZE_TEXT_BYTES];

	if (rc || config->node_cache_bytes <= memory_bytes())
		return rc;
	return error_set(error, -EINVAL, "%s is more than the memory of this machine, %s",
	    size_format(config->node_cache_bytes, wanted), size_format(memory_bytes(), there));
}

static int
set_buffer_memory(struct daemon_config *config, const char *value, struct error *error)
{
	return take_size(&config->buffer_memory_bytes, BUFFER_MEMORY_BYTES_MIN, value, error);
}

static int
take_number(
    uint32_t *number, uint32_t max, const char *value, const char *what, struct error *error)
{
	uint64_t parsed = 0;
	const char *at = value;

	while (*at >= '0' && *at <= '9' && parsed <= max)
		parsed = 10 * parsed + (uint64_t)(*at++ - '0');
	if (*at || parsed == 0 || parsed > max)
		return error_set(error, -EINVAL, "\"%.40s\" is not a number of %s from 1 to %u",
		    value, what, max);
	*number = (uint32_t)parsed;
	return 0;
}

static int
set_reactors(struct daemon_config *config, const char *value, struct error *error)
{
	return take_number(&config->reactors, REACTORS_MAX, value, "threads", error);
}

static int
set_connections(struct daemon_config *config, const char *value, struct error *error)
{
	return take_number(&config->connections, CONNECTIONS_MAX, value, "connections", error);
}

static int
set_connections_per_client(struct daemon_config *config, const char *value, struct error *error)
{
	return take_number(
	    &config->connections_per_client, CONNECTIONS_MAX, value, "connections", error);
}

static int
set_handshake_timeout(struct daemon_config *config, const char *value, struct error *error)
{
	return take_number(&config->handshake_timeout_s, TIMEOUT_S_MAX, value, "seconds", error);
}

static int
set_idle_timeout(struct daemon_config *config, const char *value, struct error *error)
{
	return take_number(&config->idle_timeout_s, TIMEOUT_S_MAX, value, "seconds", error);
}

static int
set_remote_timeout(struct daemon_config *config, const char *value, struct error *error)
{
	return take_number(&config->remote_timeout_s, TIMEOUT_S_MAX, value, "seconds", error);
}

static int
set_stall_timeout(struct daemon_config *config, const char *value, struct error *error)
{
	return take_number(&config->stall_timeout_s, TIMEOUT_S_MAX, value, "seconds", error);
}

static int
set_cache(struct daemon_config *config, const char *value, struct error *error)
{
	config->cache_kernel = strcmp(value, "kernel") == 0;
	if (!config->cache_kernel && strcmp(value, "direct") != 0)
		return error_set(error, -EINVAL, "\"%.40s\" is neither direct nor kernel", value);
	return 0;
}

static int
set_log_level(struct daemon_config *config, const char *value, struct error *error)
{
	static const struct {
		const char *text;
		enum diag_level level;
	} levels[] = {
		{ "error", DIAG_ERROR },
		{ "warning", DIAG_WARNING },
		{ "info", DIAG_INFO },
		{ "debug", DIAG_DEBUG },
	};

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		if (strcmp(levels[i].text, value) == 0) {
			config->log_level = levels[i].level;
			return 0;
		}
	}
	return error_set(
	    error, -EINVAL, "\"%.40s\" is none of error, warning, info and debug", value);
}

static int
set_iscsi_default_targets(struct daemon_config *config, const char *value, struct error *error)
{
	return take_on_off(&config->iscsi_default_targets, value, error);
}

static const struct setting {
	const char *name;
	bool is_list;
	const char *value;
	const char *help;
	int (*set)(struct daemon_config *config, const char *value, struct error *error);
} settings[] = {
	{ "listen", true, "URI",
	    "nbd://ADDRESS:PORT, nbd+unix:///?socket=PATH (nbds for TLS), or "
	    "iscsi://ADDRESS:PORT; may be repeated",
	    set_listen },
	{ "import", true, "DEVICE", "import the pools on these devices at start; may be repeated",
	    set_import },
	{ "export", true, "RULE",
	    "[!]PATTERN [ro] [from NET] [tls NAME] [at URI]: what is offered to whom; may be "
	    "repeated",
	    set_export },
	{ "connections", false, "N", "at once (default: 1024)", set_connections },
	{ "connections-per-client", false, "N", "from one address (default: no other limit)",
	    set_connections_per_client },
	{ "handshake-timeout", false, "SECONDS", "until a client serves its purpose (default: 30)",
	    set_handshake_timeout },
	{ "idle-timeout", false, "SECONDS", "for clients without requests (default: none)",
	    set_idle_timeout },
	{ "remote-timeout", false, "SECONDS",
	    "how long requests wait for a device nbd:// that is away (default: 30)",
	    set_remote_timeout },
	{ "stall-timeout", false, "SECONDS",
	    "until a device that does not answer is left out, of a pool with copies (default: 30)",
	    set_stall_timeout },
	{ "tls", false, "off|on|require", "whether nbd:// offers or demands TLS (default: off)",
	    set_tls },
	{ "tls-certificates", false, "FOLDER",
	    "with server-cert.pem, server-key.pem, ca-cert.pem, ca-crl.pem", set_tls_certificates },
	{ "tls-psk-file", false, "FILE", "lines of USER:KEY, the key in hex", set_tls_psk_file },
	{ "tls-verify-peer", false, "on|off", "on: clients must have a certificate, too",
	    set_tls_verify_peer },
	{ "tls-kernel", false, "on|off",
	    "on (default): the kernel encrypts what TLS 1.3 sends, if it can", set_tls_kernel },
	{ "iscsi-default-targets", false, "on|off",
	    "off: only volumes with an export (quarry export add) are iSCSI targets",
	    set_iscsi_default_targets },
	{ "socket", false, "PATH", "the socket of the quarry command", set_socket },
	{ "socket-group", false, "GROUP", "this group's members may use it, too",
	    set_socket_group },
	{ "node-cache", false, "SIZE", "memory for maps (default: a quarter of all)",
	    set_node_cache },
	{ "buffer-memory", false, "SIZE", "memory for data in flight (default: 256MiB)",
	    set_buffer_memory },
	{ "reactors", false, "N", "threads that do the work (default: 1)", set_reactors },
	{ "cache", false, "direct|kernel", "whether devices are used past the kernel's page cache",
	    set_cache },
	{ "log-level", false, "LEVEL", "error, warning, info or debug", set_log_level },
};

static const struct setting *
setting_find(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		if (strlen(settings[i].name) == len && memcmp(settings[i].name, name, len) == 0)
			return &settings[i];
	return NULL;
}

static unsigned
setting_bit(const struct setting *setting)
{
	return 1u << (setting - settings);
}

/* --- the file --- */

struct yaml_source {
	struct daemon_config *config;
	const char *path;
	yaml_document_t document;
	struct error *error;
};

static int printf_like(3, 4)
    refuse(const struct yaml_source *source, const yaml_node_t *node, const char *format, ...)
{
	struct error inner;
	va_list args;

	va_start(args, format);
	vsnprintf(inner.text, sizeof(inner.text), format, args);
	va_end(args);
	return error_set(source->error, -EINVAL, "%.100s:%zu: %s", source->path,
	    node->start_mark.line + 1, inner.text);
}

static const char *
node_kind(const yaml_node_t *node)
{
	return node->type == YAML_SEQUENCE_NODE  ? "a list"
	       : node->type == YAML_MAPPING_NODE ? "a mapping"
						 : "a value";
}

static bool
is_empty(const yaml_node_t *node)
{
	return node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0 &&
	       node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static int
apply_scalar(struct yaml_source *source, const struct setting *setting, const yaml_node_t *node)
{
	const char *value = (const char *)node->data.scalar.value;
	struct error inner = { 0 };

	if (node->type != YAML_SCALAR_NODE)
		return refuse(source, node, "%s: a %s is wanted here, not %s", setting->name,
		    setting->value, node_kind(node));
	if (strlen(value) != node->data.scalar.length)
		return refuse(source, node, "%s: a value cannot hold a zero byte", setting->name);
	if (!value[0])
		return refuse(
		    source, node, "%s: the value is missing: %s", setting->name, setting->value);
	if (source->config->set & setting_bit(setting))
		return 0; /* a flag has said otherwise */
	if (setting->set(source->config, value, &inner))
		return refuse(source, node, "%s: %s", setting->name, inner.text);
	return 0;
}

static int
apply_setting(struct yaml_source *source, const struct setting *setting, const yaml_node_t *node)
{
	if (!setting->is_list)
		return apply_scalar(source, setting, node);
	if (is_empty(node))
		return 0;
	if (node->type != YAML_SEQUENCE_NODE)
		return refuse(source, node, "%s: a list is wanted: %s: [%s]", setting->name,
		    setting->name, setting->value);
	for (const yaml_node_item_t *item = node->data.sequence.items.start;
	     item < node->data.sequence.items.top; item++) {
		int rc =
		    apply_scalar(source, setting, yaml_document_get_node(&source->document, *item));

		if (rc)
			return rc;
	}
	return 0;
}

static int
apply_document(struct yaml_source *source)
{
	const yaml_node_t *root = yaml_document_get_root_node(&source->document);
	unsigned seen = 0;

	if (!root || is_empty(root))
		return 0;
	if (root->type != YAML_MAPPING_NODE)
		return refuse(source, root,
		    "the file must consist of \"key: value\" lines, not of %s", node_kind(root));
	for (const yaml_node_pair_t *pair = root->data.mapping.pairs.start;
	     pair < root->data.mapping.pairs.top; pair++) {
		const yaml_node_t *key = yaml_document_get_node(&source->document, pair->key);
		const yaml_node_t *value = yaml_document_get_node(&source->document, pair->value);
		const struct setting *setting;
		int rc;

		if (key->type != YAML_SCALAR_NODE)
			return refuse(source, key, "a key must be a word, not %s", node_kind(key));
		setting =
		    setting_find((const char *)key->data.scalar.value, key->data.scalar.length);
		if (!setting)
			return refuse(source, key,
			    "there is no key \"%.30s\"; quarryd --help tells which there are",
			    (const char *)key->data.scalar.value);
		if (seen & setting_bit(setting))
			return refuse(source, key, "%s stands here a second time", setting->name);
		seen |= setting_bit(setting);
		rc = apply_setting(source, setting, value);
		if (rc)
			return rc;
	}
	return 0;
}

/* The parser's next document becomes source->document. */
static int
load_document(yaml_parser_t *parser, struct yaml_source *source)
{
	if (yaml_parser_load(parser, &source->document))
		return 0;
	return error_set(source->error, -EINVAL, "%.100s:%zu: %s%s%s", source->path,
	    parser->problem_mark.line + 1, parser->problem ? parser->problem : "not YAML",
	    parser->context ? " " : "", parser->context ? parser->context : "");
}

int
daemon_config_parse_yaml(struct daemon_config *config, const char *path, const char *text,
    size_t len_bytes, struct error *error)
{
	struct yaml_source source = { .config = config, .path = path, .error = error };
	yaml_parser_t parser;
	int rc;

	CHECK(yaml_parser_initialize(&parser));
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len_bytes);
	rc = load_document(&parser, &source);
	if (!rc) {
		rc = apply_document(&source);
		yaml_document_delete(&source.document);
	}
	if (!rc) {
		rc = load_document(&parser, &source);
		if (!rc) {
			const yaml_node_t *root = yaml_document_get_root_node(&source.document);

			if (root)
				rc =
				    refuse(&source, root, "a second document (---) is not allowed");
			yaml_document_delete(&source.document);
		}
	}
	yaml_parser_delete(&parser);
	return rc;
}

static int
read_file(const char *path, char **text, size_t *len_bytes, struct error *error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *bytes;
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return error_set(error, -errno, "cannot open %.150s: %m", path);
	bytes = xmalloc(CONFIG_BYTES_MAX + 1);
	do {
		n = read(fd, bytes + len, CONFIG_BYTES_MAX + 1 - len);
		len += n > 0 ? (size_t)n : 0;
	} while (n > 0 || (n < 0 && errno == EINTR));
	int rc = 0;

	if (n < 0)
		rc = error_set(error, -errno, "cannot read %.150s: %m", path);
	else if (len > CONFIG_BYTES_MAX)
		rc = error_set(
		    error, -EINVAL, "%.150s is larger than 1 MiB: is it the right file?", path);
	close(fd);
	if (rc) {
		free(bytes);
		return rc;
	}
	*text = bytes;
	*len_bytes = len;
	return 0;
}

/* --- flags --- */

static int
apply_flag(struct daemon_config *config, const char *flag, size_t len, const char *value,
    struct error *error)
{
	const struct setting *setting = setting_find(flag, len);
	struct error inner = { 0 };

	if (len == strlen("config") && memcmp(flag, "config", len) == 0) {
		if (config->config_path)
			return error_set(error, -EINVAL, "--config was given twice");
		config->config_path = xstrdup(value);
		return 0;
	}
	if (!value[0])
		return error_set(
		    error, -EINVAL, "--%s needs a value: %s", setting->name, setting->value);
	if (!setting->is_list && config->set & setting_bit(setting))
		return error_set(error, -EINVAL, "--%s was given twice", setting->name);
	if (setting->set(config, value, &inner))
		return error_set(error, -EINVAL, "--%s: %s", setting->name, inner.text);
	if (!setting->is_list)
		config->set |= setting_bit(setting);
	return 0;
}

static bool
flag_known(const char *flag, size_t len)
{
	return setting_find(flag, len) ||
	       (len == strlen("config") && memcmp(flag, "config", len) == 0);
}

static int
parse_flags(struct daemon_config *config, int argc, char **argv, struct error *error)
{
	for (int i = 1; i < argc; i++) {
		const char *flag = argv[i];
		const char *equals;
		const char *value;
		size_t len;
		int rc;

		if (strcmp(flag, "--help") == 0 || strcmp(flag, "-h") == 0) {
			config->help = true;
			return 0;
		}
		if (strcmp(flag, "--version") == 0 || strcmp(flag, "-V") == 0) {
			config->version = true;
			return 0;
		}
		if (strncmp(flag, "--", 2) != 0)
			return error_set(error, -EINVAL,
			    "\"%.80s\" is not an option; to import a device write --import %.80s",
			    flag, flag);
		flag += 2;
		equals = strchr(flag, '=');
		len = equals ? (size_t)(equals - flag) : strlen(flag);
		if (!flag_known(flag, len))
			return error_set(error, -EINVAL,
			    "there is no option --%.*s; see: quarryd --help", (int)min_u64(len, 60),
			    flag);
		if (!equals && i + 1 >= argc)
			return error_set(error, -EINVAL, "--%.*s needs a value", (int)len, flag);
		value = equals ? equals + 1 : argv[++i];
		rc = apply_flag(config, flag, len, value, error);
		if (rc)
			return rc;
	}
	return 0;
}

/* --- the whole --- */

void
daemon_config_init(struct daemon_config *config)
{
	char path[ADMIN_SOCKET_PATH_SIZE];

	memset(config, 0, sizeof(*config));
	admin_socket_default(path);
	config->socket_path = xstrdup(path);
	config->node_cache_bytes = max_u64(memory_bytes() / 4, NODE_CACHE_BYTES_DEFAULT_MIN);
	config->buffer_memory_bytes = BUFFER_MEMORY_BYTES_DEFAULT;
	/* One serves a pool best: requests between reactors are messages, which cost (measured). */
	config->reactors = 1;
	config->iscsi_default_targets = true;
	config->tls_kernel = true;
	config->log_level = DIAG_INFO;
}

int
daemon_config_load(struct daemon_config *config, int argc, char **argv, struct error *error)
{
	int rc;

	daemon_config_init(config);
	rc = parse_flags(config, argc, argv, error);
	if (rc || config->help || config->version)
		return rc;
	if (config->config_path) {
		char *text = NULL;
		size_t len_bytes = 0;

		rc = read_file(config->config_path, &text, &len_bytes, error);
		if (rc)
			return rc;
		rc = daemon_config_parse_yaml(config, config->config_path, text, len_bytes, error);
		free(text);
		if (rc)
			return rc;
	}
	if (config->listen_count == 0 && systemd_socket_count() == 0)
		return set_listen(config, "nbd://127.0.0.1:10809", error);
	return 0;
}

static void
list_fini(char **list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(list[i]);
	free(list);
}

void
daemon_config_fini(struct daemon_config *config)
{
	list_fini(config->listen, config->listen_count);
	list_fini(config->import, config->import_count);
	free(config->access);
	free(config->tls_certificates);
	free(config->tls_psk_file);
	free(config->config_path);
	free(config->socket_path);
	free(config->socket_group);
	memset(config, 0, sizeof(*config));
}

void
daemon_config_print_help(FILE *out)
{
	fputs("Usage: quarryd [--config FILE] [--listen URI]… [--import DEVICE]… [OPTION]…\n\n"
	      "Serves pools of disks and files as thin volumes over NBD.  It stays in the "
	      "foreground,\n"
	      "logs to stderr, and ends cleanly on SIGTERM; a second one ends it at once.\n\n"
	      "Options (the same names are keys of the configuration file):\n"
	      "  --config FILE                a YAML file; flags override it\n",
	    out);
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		char left[40];

		snprintf(left, sizeof(left), "--%s %s", settings[i].name, settings[i].value);
		fprintf(out, "  %-28s %s\n", left, settings[i].help);
	}
	fputs(
	    "  --help, --version            print this, or the version\n\n"
	    "Without --listen it listens on nbd://127.0.0.1:10809.  Sizes are 64MiB, 10G, 1.5T.\n",
	    out);
}
