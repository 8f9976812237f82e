/* SPDX-License-Identifier: Apache-2.0 */
/* quarryd's flags and configuration file: what is refused, with which words, and what is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <unistd.h>

/* The programs' parts are in no library. */
#include "frontends/nbd/nbd_server.h"
#include "tools/quarryd_config.c"
#include "frontends/iscsi/iscsi_server.h"
#include "tools/quarryd_systemd.c"

static void
test_bad_files(void **state)
{
	static const struct {
		const char *text;
		const char *error;
	} cases[] = {
		{ "socket-path: /a\n",
		    "q.yaml:1: there is no key \"socket-path\"; quarryd --help tells which there "
		    "are" },
		{ "# head\n\nnode-cache: 10X\n", "q.yaml:3: node-cache: \"10X\" is not a size: the "
						 "units are K, M, G, T, P and E (or "
						 "KiB, MiB …)" },
		{ "node-cache: 10GB\n", "q.yaml:1: node-cache: \"10GB\" is ambiguous: for units of "
					"1024 leave out the B, as in "
					"10G" },
		{ "node-cache: 1M\n",
		    "q.yaml:1: node-cache: \"1M\" is too small; at least 4MiB are needed" },
		{ "export: ['!']\n",
		    "q.yaml:1: export: \"!\" is no pattern: name volumes as in tank/vm1 "
		    "or tank/*, with ! before it to hide them" },
		{ "node-cache:\n", "q.yaml:1: node-cache: the value is missing: SIZE" },
		{ "node-cache: [1G]\n", "q.yaml:1: node-cache: a SIZE is wanted here, not a list" },
		{ "buffer-memory: 1M\n",
		    "q.yaml:1: buffer-memory: \"1M\" is too small; at least 64MiB are needed" },
		{ "reactors: 0\n",
		    "q.yaml:1: reactors: \"0\" is not a number of threads from 1 to 64" },
		{ "reactors: 65\n",
		    "q.yaml:1: reactors: \"65\" is not a number of threads from 1 to 64" },
		{ "reactors: two\n",
		    "q.yaml:1: reactors: \"two\" is not a number of threads from 1 to 64" },
		{ "reactors: 99999999999999999999\n",
		    "q.yaml:1: reactors: \"99999999999999999999\" is not a number of threads from "
		    "1 to "
		    "64" },
		{ "cache: none\n", "q.yaml:1: cache: \"none\" is neither direct nor kernel" },
		{ "tls-kernel: maybe\n", "q.yaml:1: tls-kernel: \"maybe\" is neither on nor off" },
		{ "log-level: loud\n",
		    "q.yaml:1: log-level: \"loud\" is none of error, warning, info and debug" },
		{ "listen: nbd://127.0.0.1:1\n",
		    "q.yaml:1: listen: a list is wanted: listen: [URI]" },
		{ "listen:\n  - nbd://127.0.0.1:1\n  - http://x\n",
		    "q.yaml:3: listen: \"http://x\" is not an address to listen on; write "
		    "nbd://ADDRESS:PORT or nbd+unix:///?socket=PATH (nbds for TLS)" },
		{ "listen:\n  - {uri: x}\n",
		    "q.yaml:2: listen: a URI is wanted here, not a mapping" },
		{ "import:\n  - ''\n", "q.yaml:2: import: the value is missing: DEVICE" },
		{ "import: [[a]]\n", "q.yaml:1: import: a DEVICE is wanted here, not a list" },
		{ "socket: ''\n", "q.yaml:1: socket: the value is missing: PATH" },
		{ "socket: \"a\\0b\"\n", "q.yaml:1: socket: a value cannot hold a zero byte" },
		{ "socket: /a\nsocket: /b\n", "q.yaml:2: socket stands here a second time" },
		{ "- listen\n",
		    "q.yaml:1: the file must consist of \"key: value\" lines, not of a list" },
		{ "listen\n",
		    "q.yaml:1: the file must consist of \"key: value\" lines, not of a value" },
		{ "[a]: b\n", "q.yaml:1: a key must be a word, not a list" },
		{ "socket: /a\n---\nsocket: /b\n",
		    "q.yaml:3: a second document (---) is not allowed" },
		{ "socket: [/a\n",
		    "q.yaml:2: did not find expected ',' or ']' while parsing a flow sequence" },
		{ "a: b: c\n", "q.yaml:1: mapping values are not allowed in this context" },
		{ "a: *b\n", "q.yaml:1: found undefined alias" },
		{ "\tsocket: /a\n", "q.yaml:1: found character that cannot start any token while "
				    "scanning for the next "
				    "token" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct daemon_config config;
		struct error error = { 0 };

		daemon_config_init(&config);
		assert_int_equal(daemon_config_parse_yaml(&config, "q.yaml", cases[i].text,
				     strlen(cases[i].text), &error),
		    -EINVAL);
		assert_string_equal(error.text, cases[i].error);
		daemon_config_fini(&config);
	}
}

/* Bytes that are no text at all. */
static void
test_garbage_files(void **state)
{
	uint64_t seed = 1;

	for (int round = 0; round < 2000; round++) {
		struct daemon_config config;
		struct error error = { 0 };
		char text[64];

		for (size_t i = 0; i < sizeof(text); i++) {
			seed = mix64(seed + 0x9e3779b97f4a7c15ull);
			text[i] = round % 2 ? (char)seed : "-: []{}\n\t#&*!|>'\"%@`a,?"[seed % 24];
		}
		daemon_config_init(&config);
		if (daemon_config_parse_yaml(&config, "q.yaml", text, sizeof(text), &error))
			assert_true(strncmp(error.text, "q.yaml:", 7) == 0);
		daemon_config_fini(&config);
	}
}

/* Who may do what: N nothing, R read, W write. */
static void
test_rules_of_access(void **state)
{
	static const struct nbd_peer local = { .is_unix = true, .tls_name = "", .listener = "l" };
	static const struct nbd_peer ten = {
		.address = { [10] = 0xff, 0xff, 10, 1, 2, 3 }, .tls_name = "", .listener = "l"
	};
	static const struct nbd_peer alice = {
		.address = { 0x20, 0x01, 0x0d, 0xb8 }, .tls_name = "alice", .listener = "nbds://h"
	};
	static const struct {
		const char *rules[3];
		const char *name;
		const char *expected; /* for local, ten and alice */
	} cases[] = {
		{ { NULL }, "tank/a", "WWW" },
		{ { "tank/a" }, "tank/a", "WWW" },
		{ { "tank/a" }, "tank/a@s", "NNN" },
		{ { "tank/*" }, "tank/a@s", "WWW" },
		{ { "tank/*" }, "pond/a", "NNN" },
		{ { "!tank/s*" }, "tank/a", "WWW" },
		{ { "!tank/s*" }, "tank/s1", "NNN" },
		{ { "*", "!*@*" }, "tank/a@s", "NNN" },
		{ { "*", "!tank/*", "tank/b" }, "tank/b", "WWW" },
		{ { "*", "!tank/*", "tank/b" }, "tank/c", "NNN" },
		{ { "* ro", "* from unix" }, "tank/a", "WRR" },
		{ { "*\tfrom 10.0.0.0/8  ro" }, "tank/a", "NRN" },
		{ { "* from 10.1.2.0/25" }, "tank/a", "NWN" },
		{ { "* from 10.1.2.128/25" }, "tank/a", "NNN" },
		{ { "* from 10.1.2.3" }, "tank/a", "NWN" },
		{ { "* from 10.1.2.2" }, "tank/a", "NNN" },
		{ { "* from 0.0.0.0/0" }, "tank/a", "NWN" },
		{ { "* from ::/0" }, "tank/a", "NWW" },
		{ { "* from 2001:db8::/31,unix" }, "tank/a", "WNW" },
		{ { "*", "!tank/s*", "tank/s* tls alice" }, "tank/s1", "NNW" },
		{ { "* tls *" }, "tank/a", "NNW" },
		{ { "* tls bob" }, "tank/a", "NNN" },
		{ { "!* from 10.0.0.0/8" }, "tank/a", "WNW" },
		{ { "* at l", "* ro at nbds://h from ::/0" }, "tank/a", "WWR" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct nbd_access_rule rules[3];
		struct error error = { 0 };
		size_t count = 0;
		char got[4] = "";

		for (; count < 3 && cases[i].rules[count]; count++)
			assert_int_equal(
			    nbd_access_parse(&rules[count], cases[i].rules[count], &error), 0);
		got[0] = "NRW"[nbd_access(rules, count, &local, cases[i].name)];
		got[1] = "NRW"[nbd_access(rules, count, &ten, cases[i].name)];
		got[2] = "NRW"[nbd_access(rules, count, &alice, cases[i].name)];
		assert_string_equal(got, cases[i].expected);
	}
}

static void
test_bad_rules_of_access(void **state)
{
	static const struct {
		const char *rule;
		const char *error;
	} cases[] = {
		{ "!",
		    "\"!\" is no pattern: name volumes as in tank/vm1 or tank/*, with ! before it "
		    "to hide them" },
		{ "* from 10.0.0.0/33",
		    "\"10.0.0.0/33\": behind the / stand how many bits of 32 count" },
		{ "* from ::/129", "\"::/129\": behind the / stand how many bits of 128 count" },
		{ "* from 10.0.0.0/",
		    "\"10.0.0.0/\": behind the / stand how many bits of 32 count" },
		{ "* from host",
		    "\"host\" is no address: write 192.0.2.0/24, 2001:db8::/32 or unix" },
		{ "* from 1.1.1.1,2,3", "\"2\" is no address: write 192.0.2.0/24, 2001:db8::/32 or "
					"unix" },
		{ "* from unix,unix,unix,unix,unix,unix,unix,unix,unix",
		    "a rule has at most 8 addresses" },
		{ "* from", "something is missing behind \"from\"" },
		{ "* tls", "something is missing behind \"tls\"" },
		{ "!a ro", "what is hidden cannot be read-only: leave out ! or ro" },
		{ "a rw",
		    "\"rw\": behind a pattern may stand ro, from ADDRESS/BITS, tls NAME and at "
		    "URI" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct nbd_access_rule rule;
		struct error error = { 0 };

		assert_int_equal(nbd_access_parse(&rule, cases[i].rule, &error), -EINVAL);
		assert_string_equal(error.text, cases[i].error);
	}
}

static void
test_good_file(void **state)
{
	static const char text[] = "# all keys\n"
				   "listen:\n"
				   "  - nbd://127.0.0.1:10810\n"
				   "  - nbd://[::1]\n"
				   "  - nbd+unix:///?socket=/run/a%20b.sock\n"
				   "import: [/dev/sdb, 'disk 1.img']\n"
				   "export: ['tank/*', '!tank/secret*']\n"
				   "socket: /tmp/q.sock\n"
				   "socket-group: disk\n"
				   "node-cache: 4MiB\n"
				   "buffer-memory: 1.5G\n"
				   "reactors: 2\n"
				   "cache: kernel\n"
				   "log-level: debug\n";
	struct daemon_config config;
	struct error error = { 0 };

	daemon_config_init(&config);
	assert_int_equal(
	    daemon_config_parse_yaml(&config, "q.yaml", text, strlen(text), &error), 0);
	assert_int_equal(config.listen_count, 3);
	assert_string_equal(config.listen[0], "nbd://127.0.0.1:10810");
	assert_string_equal(config.listen[1], "nbd://[::1]");
	assert_string_equal(config.listen[2], "nbd+unix:///?socket=/run/a%20b.sock");
	assert_int_equal(config.import_count, 2);
	assert_string_equal(config.import[1], "disk 1.img");
	assert_int_equal(config.access_count, 2);
	assert_true(config.access[1].hides);
	assert_string_equal(config.access[1].pattern, "tank/secret*");
	assert_string_equal(config.socket_path, "/tmp/q.sock");
	assert_string_equal(config.socket_group, "disk");
	assert_int_equal(config.node_cache_bytes, 4 * MIB);
	assert_int_equal(config.buffer_memory_bytes, GIB + GIB / 2);
	assert_int_equal(config.reactors, 2);
	assert_true(config.cache_kernel);
	assert_int_equal(config.log_level, DIAG_DEBUG);
	daemon_config_fini(&config);
}

static void
test_empty_files(void **state)
{
	static const char *const texts[] = { "", "\n", "# nothing\n", "---\n", "listen:\nimport:\n",
		"listen: []\n" };

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct daemon_config config;
		struct error error = { 0 };

		daemon_config_init(&config);
		assert_int_equal(
		    daemon_config_parse_yaml(&config, "q.yaml", texts[i], strlen(texts[i]), &error),
		    0);
		assert_int_equal(config.listen_count, 0);
		assert_int_equal(config.import_count, 0);
		assert_true(config.node_cache_bytes >= 64 * MIB);
		daemon_config_fini(&config);
	}
}

static int
load(struct daemon_config *config, const char *const *flags, struct error *error)
{
	int argc = 1;

	while (flags[argc - 1])
		argc++;
	char *argv[16] = { (char *)"quarryd" };

	for (int i = 1; i < argc; i++)
		argv[i] = (char *)(uintptr_t)flags[i - 1];
	return daemon_config_load(config, argc, argv, error);
}

static void
test_bad_flags(void **state)
{
	static const struct {
		const char *flags[6];
		int rc;
		const char *error;
	} cases[] = {
		{ { "--foo" }, -EINVAL, "there is no option --foo; see: quarryd --help" },
		{ { "--foo=1" }, -EINVAL, "there is no option --foo; see: quarryd --help" },
		{ { "-x" }, -EINVAL,
		    "\"-x\" is not an option; to import a device write --import -x" },
		{ { "/dev/sdb" }, -EINVAL,
		    "\"/dev/sdb\" is not an option; to import a device write --import /dev/sdb" },
		{ { "--listen" }, -EINVAL, "--listen needs a value" },
		{ { "--listen=" }, -EINVAL, "--listen needs a value: URI" },
		{ { "--config" }, -EINVAL, "--config needs a value" },
		{ { "--config", "a", "--config", "b" }, -EINVAL, "--config was given twice" },
		{ { "--config", "/nonexistent/q.yaml" }, -ENOENT,
		    "cannot open /nonexistent/q.yaml: No such file or directory" },
		{ { "--config", "/" }, -EISDIR, "cannot read /: Is a directory" },
		{ { "--reactors", "x" }, -EINVAL,
		    "--reactors: \"x\" is not a number of threads from 1 to 64" },
		{ { "--reactors", "1", "--reactors", "2" }, -EINVAL, "--reactors was given twice" },
		{ { "--node-cache", "-1" }, -EINVAL,
		    "--node-cache: \"-1\" is not a size: it cannot be negative" },
		{ { "--cache", "" }, -EINVAL, "--cache needs a value: direct|kernel" },
		{ { "--log-level", "INFO" }, -EINVAL,
		    "--log-level: \"INFO\" is none of error, warning, info and debug" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct daemon_config config;
		struct error error = { 0 };

		assert_int_equal(load(&config, cases[i].flags, &error), cases[i].rc);
		assert_string_equal(error.text, cases[i].error);
		daemon_config_fini(&config);
	}
}

static void
test_flags_and_file(void **state)
{
	char path[] = "/tmp/quarry-test-config-XXXXXX";
	static const char text[] = "listen: [nbd://127.0.0.1:2]\nreactors: 3\ncache: kernel\n"
				   "import: [/b]\n";
	int fd = mkstemp(path);
	struct daemon_config config;
	struct error error = { 0 };

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	assert_int_equal(load(&config,
			     (const char *[]){ "--reactors=1", "--config", path, "--listen",
				 "nbd://127.0.0.1:1", "--import=/a", NULL },
			     &error),
	    0);
	unlink(path);
	assert_int_equal(config.reactors, 1);
	assert_true(config.cache_kernel);
	assert_int_equal(config.listen_count, 2);
	assert_int_equal(config.import_count, 2);
	daemon_config_fini(&config);

	assert_int_equal(load(&config, (const char *[]){ NULL }, &error), 0);
	assert_int_equal(config.listen_count, 1);
	assert_string_equal(config.listen[0], "nbd://127.0.0.1:10809");
	assert_false(config.cache_kernel);
	assert_int_equal(config.log_level, DIAG_INFO);
	daemon_config_fini(&config);

	assert_int_equal(load(&config, (const char *[]){ "--help", "--bad", NULL }, &error), 0);
	assert_true(config.help);
	daemon_config_fini(&config);
	assert_int_equal(load(&config, (const char *[]){ "--version", NULL }, &error), 0);
	assert_true(config.version);
	daemon_config_fini(&config);
}

static void
test_listen_addresses(void **state)
{
	static const struct {
		const char *uri;
		const char *error; /* NULL: it is good */
	} cases[] = {
		{ "nbd://127.0.0.1:10809", NULL },
		{ "nbd://127.0.0.1", NULL },
		{ "nbd://127.0.0.1/", NULL },
		{ "nbd://localhost:1/", NULL },
		{ "nbd://[::]:65535", NULL },
		{ "nbd+unix:///?socket=/a", NULL },
		{ "", "\"\" is not an address to listen on; write nbd://ADDRESS:PORT or "
		      "nbd+unix:///?socket=PATH (nbds for TLS)" },
		{ "127.0.0.1:10809", "\"127.0.0.1:10809\" is not an address to listen on; write "
				     "nbd://ADDRESS:PORT or "
				     "nbd+unix:///?socket=PATH (nbds for TLS)" },
		{ "nbds://h", NULL },
		{ "nbds+unix:///?socket=/a", NULL },
		{ "nbd://h:1?tls=on", NULL },
		{ "nbd+unix:///?tls=require&socket=/a", NULL },
		{ "nbds://h?tls=require", NULL },
		{ "nbds://h?tls=off", "\"nbds://h?tls=off\": nbds means that TLS is required" },
		{ "nbd://h?tls=yes",
		    "\"nbd://h?tls=yes\": tls=\"yes\" is none of off, on and require" },
		{ "nbd://h?socket=/a",
		    "\"nbd://h?socket=/a\": nothing but tls= may stand behind the ?" },
		{ "nbd://", "\"nbd://\" has no address; for every address of this machine write "
			    "nbd://0.0.0.0:10809 or nbd://[::]:10809" },
		{ "nbd://:1",
		    "\"nbd://:1\" has no address; for every address of this machine write "
		    "nbd://0.0.0.0:10809 or nbd://[::]:10809" },
		{ "nbd://h:",
		    "\"nbd://h:\": the port must be a number up to 65535 (an IPv6 address "
		    "stands in [ ])" },
		{ "nbd://h:0", NULL },
		{ "nbd://h:65536", "\"nbd://h:65536\": the port must be a number up to 65535 (an "
				   "IPv6 address stands in [ ])" },
		{ "nbd://h:1x", "\"nbd://h:1x\": the port must be a number up to 65535 (an IPv6 "
				"address stands in [ ])" },
		{ "nbd://::1",
		    "\"nbd://::1\" has no address; for every address of this machine write "
		    "nbd://0.0.0.0:10809 or nbd://[::]:10809" },
		{ "nbd://[::1", "\"nbd://[::1\": a ] is missing" },
		{ "nbd://[::1]x",
		    "\"nbd://[::1]x\": a listen address ends after the port; exports are "
		    "named by clients" },
		{ "nbd://h:1/tank/vm1",
		    "\"nbd://h:1/tank/vm1\": a listen address ends after the port; "
		    "exports are named by clients" },
		{ "nbd+unix://", "\"nbd+unix://\": write nbd+unix:///?socket=PATH" },
		{ "nbd+unix:///x?socket=/a", "\"nbd+unix:///x?socket=/a\": write "
					     "nbd+unix:///?socket=PATH" },
		{ "nbds://h", NULL },
		{ "nbds+unix:///?socket=/a", NULL },
		{ "nbd://h:1?tls=on", NULL },
		{ "nbd+unix:///?tls=require&socket=/a", NULL },
		{ "nbds://h?tls=require", NULL },
		{ "nbds://h?tls=off", "\"nbds://h?tls=off\": nbds means that TLS is required" },
		{ "nbd://h?tls=yes",
		    "\"nbd://h?tls=yes\": tls=\"yes\" is none of off, on and require" },
		{ "nbd://h?socket=/a",
		    "\"nbd://h?socket=/a\": nothing but tls= may stand behind the ?" },
		{ "nbd+unix:///?socket=",
		    "\"nbd+unix:///?socket=\": the socket's path must begin with "
		    "/" },
		{ "nbd+unix:///?socket=a",
		    "\"nbd+unix:///?socket=a\": the socket's path must begin "
		    "with /" },
		{ "nbd+unix:///?socket=/a&b=c",
		    "\"nbd+unix:///?socket=/a&b=c\": nothing but socket= and tls= may stand "
		    "behind the ?" },
		{ "nbd+unix:///?socket=/a%2",
		    "\"nbd+unix:///?socket=/a%2\": two hex digits must follow a %" },
		{ "nbd+unix:///?socket=/a%00",
		    "\"nbd+unix:///?socket=/a%00\": two hex digits must follow a %" },
		{ "nbd+unix:///?socket=/"
		  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		  "aaaaaaaa"
		  "aaaaaaaaaaaaaaaaaaaa",
		    "\"nbd+unix:///?socket=/"
		    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\": the path of a "
		    "socket has at most 107 characters" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct nbd_address address;
		struct error error = { 0 };
		int rc = nbd_address_parse(&address, cases[i].uri, &error);

		if (cases[i].error) {
			assert_int_equal(rc, -EINVAL);
			assert_string_equal(error.text, cases[i].error);
		} else {
			assert_int_equal(rc, 0);
		}
	}
}

static void
test_iscsi_addresses(void **state)
{
	static const struct {
		const char *uri;
		const char *error; /* a part of it; NULL: a good one */
	} cases[] = {
		{ "iscsi://192.0.2.1", NULL },
		{ "iscsi://[::]:3260/", NULL },
		{ "iscsi://host:0", NULL },
		{ "iscsi:192.0.2.1", "write iscsi://ADDRESS:PORT" },
		{ "iscsi://", "write iscsi://0.0.0.0:3260 or iscsi://[::]:3260" },
		{ "iscsi://h:65536", "up to 65535" },
		{ "iscsi://h/iqn.x", "targets are named by initiators" },
		{ "iscsi://h?tls=on", "there are no options" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error error = { 0 };
		int rc = iscsi_uri_check(cases[i].uri, &error);

		assert_int_equal(rc, cases[i].error ? -EINVAL : 0);
		if (cases[i].error && !strstr(error.text, cases[i].error))
			fail_msg("%s", error.text);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_iscsi_addresses),
		cmocka_unit_test(test_bad_files),
		cmocka_unit_test(test_garbage_files),
		cmocka_unit_test(test_good_file),
		cmocka_unit_test(test_rules_of_access),
		cmocka_unit_test(test_bad_rules_of_access),
		cmocka_unit_test(test_empty_files),
		cmocka_unit_test(test_bad_flags),
		cmocka_unit_test(test_flags_and_file),
		cmocka_unit_test(test_listen_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
