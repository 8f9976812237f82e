/* SPDX-License-Identifier: Apache-2.0 */
/* The quarry command: arguments to requests or usage errors, and results to text and JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>

#include "tests/unit/admin_fake.h"

/* The programs' parts are in no library. */
#include "tools/quarry_show.c"
#include "tools/quarry_commands.c"
#include "tools/quarry_args.c"
#include "tools/quarry_table.c"

enum {
	WORDS_MAX = 12
};

static int
parse(const char *const words[WORDS_MAX], struct cli *cli, struct error *error)
{
	static char *argv[WORDS_MAX + 2]; /* cli->args point into it */
	int argc = 1;

	argv[0] = (char *)(uintptr_t) "quarry";
	for (; argc <= WORDS_MAX && words[argc - 1]; argc++)
		argv[argc] = (char *)(uintptr_t)words[argc - 1];
	return cli_parse(argc, argv, "/home/me", cli, error);
}

static void
test_requests(void **state)
{
	static const struct {
		const char *words[WORDS_MAX];
		const char *request;
	} cases[] = {
		{ { "device", "add", "tank", "/dev/sdc", "--force" },
		    "{\"quarry\":1,\"verb\":\"device.add\",\"force\":true,\"name\":\"tank\","
		    "\"devices\":[\"/dev/sdc\"]}" },
		{ { "device", "remove", "tank", "/dev/sdc" },
		    "{\"quarry\":1,\"verb\":\"device.remove\",\"name\":\"tank\",\"device\":"
		    "\"/dev/sdc\"}" },
		{ { "device", "remove", "tank", "0d9a8f1e-7c55-4d0b-9b52-3f1f1a1f6c55", "--stop" },
		    "{\"quarry\":1,\"verb\":\"device.remove\",\"name\":\"tank\",\"device\":"
		    "\"0d9a8f1e-7c55-4d0b-9b52-3f1f1a1f6c55\",\"stop\":true}" },
		{ { "pool", "rebalance", "tank", "--stop" },
		    "{\"quarry\":1,\"verb\":\"pool.rebalance\",\"name\":\"tank\",\"stop\":true}" },
		{ { "device", "offline", "tank", "a.img" },
		    "{\"quarry\":1,\"verb\":\"device.offline\",\"name\":\"tank\",\"device\":"
		    "\"/home/me/a.img\"}" },
		{ { "device", "online", "tank", "a.img" },
		    "{\"quarry\":1,\"verb\":\"device.online\",\"name\":\"tank\",\"devices\":"
		    "[\"/home/me/a.img\"]}" },
		{ { "device", "grow", "tank", "a.img" },
		    "{\"quarry\":1,\"verb\":\"device.grow\",\"name\":\"tank\",\"device\":"
		    "\"/home/me/a.img\"}" },
		{ { "device", "replace", "tank", "a.img", "nbd://h/x", "-f" },
		    "{\"quarry\":1,\"verb\":\"device.replace\",\"force\":true,\"name\":\"tank\","
		    "\"device\":\"/home/me/a.img\",\"devices\":[\"nbd://h/x\"]}" },
		{ { "pool", "create", "tank", "a", "--size", "1M", "--preallocate" },
		    "{\"quarry\":1,\"verb\":\"pool.create\",\"name\":\"tank\",\"devices\":"
		    "[\"/home/me/a\"],\"new_file_bytes\":1048576,\"preallocate\":true}" },
		{ { "pool", "create", "tank", "/dev/sdb", "disk0.img", "--size", "20G" },
		    "{\"quarry\":1,\"verb\":\"pool.create\",\"name\":\"tank\",\"devices\":[\"/dev/"
		    "sdb\","
		    "\"/home/me/disk0.img\"],\"new_file_bytes\":21474836480}" },
		{ { "pool", "create", "--size=1.5G", "tank", "--force", "a" },
		    "{\"quarry\":1,\"verb\":\"pool.create\",\"force\":true,\"name\":\"tank\","
		    "\"devices\":"
		    "[\"/home/me/a\"],\"new_file_bytes\":1610612736}" },
		{ { "--socket", "/s", "pool", "import", "nbd://h/x", "--", "-odd" },
		    "{\"quarry\":1,\"verb\":\"pool.import\",\"devices\":[\"nbd://h/x\",\"/home/me/"
		    "-odd\"]}" },
		{ { "pool", "export", "tank", "-f" },
		    "{\"quarry\":1,\"verb\":\"pool.export\",\"force\":true,\"name\":\"tank\"}" },
		{ { "pool", "list" }, "{\"quarry\":1,\"verb\":\"list\"}" },
		{ { "pool", "list", "tank", "-Hpo", "name,size" },
		    "{\"quarry\":1,\"verb\":\"list\",\"name\":\"tank\"}" },
		{ { "pool", "status", "tank", "-j" },
		    "{\"quarry\":1,\"verb\":\"list\",\"name\":\"tank\"}" },
		{ { "pool", "destroy", "tank", "-fy" },
		    "{\"quarry\":1,\"verb\":\"pool.destroy\",\"force\":true,\"name\":\"tank\"}" },
		{ { "pool", "set", "tank", "warn=70,85" },
		    "{\"quarry\":1,\"verb\":\"pool.set\",\"name\":\"tank\",\"warn_percent\":[70,85]"
		    "}" },
		{ { "scrub", "start", "tank" },
		    "{\"quarry\":1,\"verb\":\"scrub.start\",\"name\":\"tank\"}" },
		{ { "scrub", "pause", "tank" },
		    "{\"quarry\":1,\"verb\":\"scrub.pause\",\"name\":\"tank\"}" },
		{ { "scrub", "status" }, "{\"quarry\":1,\"verb\":\"list\"}" },
		{ { "volume", "create", "tank/vm1", "10T" },
		    "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/vm1\",\"size_bytes\":"
		    "10995116277760}" },
		{ { "volume", "create", "tank/vm1", "1T", "--reserve", "full" },
		    "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/vm1\",\"size_bytes\":"
		    "1099511627776,\"reserve\":\"full\"}" },
		{ { "volume", "create", "tank/vm1", "1T", "--block-size=4096" },
		    "{\"quarry\":1,\"verb\":\"volume.create\",\"name\":\"tank/vm1\",\"size_bytes\":"
		    "1099511627776,\"block_size_bytes\":4096}" },
		{ { "volume", "set", "tank/vm1", "block-size=512" },
		    "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/"
		    "vm1\",\"block_size_bytes\":512}" },
		{ { "volume", "set", "tank/vm1", "reserve=none" },
		    "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/"
		    "vm1\",\"reserve\":\"none\"}" },
		{ { "volume", "list", "-s", "used" }, "{\"quarry\":1,\"verb\":\"list\"}" },
		{ { "volume", "resize", "tank/vm1", "512MiB", "--force" },
		    "{\"quarry\":1,\"verb\":\"volume.resize\",\"force\":true,\"name\":\"tank/vm1\","
		    "\"size_bytes\":536870912}" },
		{ { "volume", "rename", "tank/a", "tank/b" },
		    "{\"quarry\":1,\"verb\":\"volume.rename\",\"name\":\"tank/"
		    "a\",\"target\":\"tank/b\"}" },
		{ { "volume", "delete", "tank/a", "--yes" },
		    "{\"quarry\":1,\"verb\":\"volume.delete\",\"name\":\"tank/a\"}" },
		{ { "volume", "delete", "tank/a", "-n" },
		    "{\"quarry\":1,\"verb\":\"volume.delete\",\"dry_run\":true,\"name\":\"tank/"
		    "a\"}" },
		{ { "snapshot", "delete", "tank/a@m", "--dry-run", "--json" },
		    "{\"quarry\":1,\"verb\":\"snapshot.delete\",\"dry_run\":true,\"names\":[\"tank/"
		    "a@m\"]}" },
		{ { "volume", "set", "tank/a", "readonly=on" },
		    "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/"
		    "a\",\"readonly\":true}" },
		{ { "volume", "set", "tank/a", "readonly=off", "--json" },
		    "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/"
		    "a\",\"readonly\":false}" },
		{ { "volume", "set", "tank/a", "on-full=pause", "on-full-timeout=5m" },
		    "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/"
		    "a\",\"on_full\":\"pause\",\"on_full_timeout_seconds\":300}" },
		{ { "volume", "set", "tank/a", "on-full-timeout=none", "on-full=error" },
		    "{\"quarry\":1,\"verb\":\"volume.set\",\"name\":\"tank/"
		    "a\",\"on_full_timeout_seconds\":null,\"on_full\":\"error\"}" },
		{ { "export", "add", "tank/a", "--iscsi" },
		    "{\"quarry\":1,\"verb\":\"export.add\",\"name\":\"tank/a\"}" },
		{ { "export", "add", "tank/a", "--iscsi", "--target", "iqn.t", "--lun=3", "--allow",
		      "iqn.a,iqn.b", "--allow=iqn.c" },
		    "{\"quarry\":1,\"verb\":\"export.add\",\"name\":\"tank/a\",\"export_target\":"
		    "\"iqn.t\",\"lun\":3,\"allow\":[\"iqn.a\",\"iqn.b\",\"iqn.c\"]}" },
		{ { "export", "remove", "tank/a", "--iscsi", "--yes" },
		    "{\"quarry\":1,\"verb\":\"export.remove\",\"name\":\"tank/a\"}" },
		{ { "snapshot", "create", "tank/a@m", "tank/b@m" },
		    "{\"quarry\":1,\"verb\":\"snapshot.create\",\"names\":[\"tank/a@m\",\"tank/"
		    "b@m\"]}" },
		{ { "snapshot", "delete", "tank/a@m" },
		    "{\"quarry\":1,\"verb\":\"snapshot.delete\",\"names\":[\"tank/a@m\"]}" },
		{ { "snapshot", "list", "tank/a" },
		    "{\"quarry\":1,\"verb\":\"list\",\"name\":\"tank\"}" },
		{ { "clone", "tank/a@m", "tank/t" }, "{\"quarry\":1,\"verb\":\"clone\",\"name\":"
						     "\"tank/a@m\",\"target\":\"tank/t\"}" },
		{ { "rollback", "tank/a@m", "--force" },
		    "{\"quarry\":1,\"verb\":\"rollback\",\"force\":true,\"name\":\"tank/a@m\"}" },
		{ { "rollback", "tank/a@m" },
		    "{\"quarry\":1,\"verb\":\"rollback\",\"name\":\"tank/a@m\"}" },
		{ { "diff", "tank/a@m", "tank/a" }, "{\"quarry\":1,\"verb\":\"diff\",\"name\":"
						    "\"tank/a@m\",\"target\":\"tank/a\"}" },
		{ { "list" }, "{\"quarry\":1,\"verb\":\"list\"}" },
		{ { "list", "-H", "-o", "name" }, "{\"quarry\":1,\"verb\":\"list\"}" },
		{ { "version" }, "{\"quarry\":1,\"verb\":\"daemon.info\"}" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct cli cli;
		struct error error = { 0 };
		struct admin_message message;
		char *text;

		if (parse(cases[i].words, &cli, &error))
			fail_msg("%s: %s", cases[i].request, error.text);
		text = json_dumps(cli.request, JSON_COMPACT);
		assert_string_equal(text, cases[i].request);
		/* And the daemon takes it. */
		if (admin_proto_decode(text, strlen(text), &message, &error))
			fail_msg("%s: %s", text, error.text);
		admin_request_fini(&message.request);
		free(text);
		cli_fini(&cli);
	}
}

static void
test_usage_errors(void **state)
{
	static const struct {
		const char *words[WORDS_MAX];
		const char *error;
	} cases[] = {
		{ { NULL }, "what is to be done? See: quarry --help" },
		{ { "--json" }, "what is to be done? See: quarry --help" },
		{ { "poool" }, "there is no command \"poool\"; see: quarry --help" },
		{ { "pool" }, "pool what? One of: create, import, export, list, status, set, "
			      "rebalance, destroy" },
		{ { "pool", "eat" }, "there is no \"pool eat\"; one of: create, import, export, "
				     "list, status, set, rebalance, destroy" },
		{ { "volume", "--help", "eat" }, "there is no \"volume eat\"; one of: create, "
						 "list, resize, rename, delete, set" },
		{ { "snapshot" }, "snapshot what? One of: create, list, delete" },
		{ { "list", "--foo" }, "there is no option --foo; see: quarry --help" },
		{ { "list", "-x" }, "there is no option -x; see: quarry --help" },
		{ { "list", "--json=1" }, "--json takes no value" },
		{ { "list", "--socket" }, "--socket needs a value: PATH" },
		{ { "list", "--socket=" }, "--socket needs a path" },
		{ { "list", "-o" }, "-o needs a value: COLUMN,…" },
		{ { "list", "-o", "colour" }, "there is no column \"colour\"; there are: "
					      "name,kind,size,used,unique,origin,created,uuid" },
		{ { "list", "-o", "name,,size" },
		    "there is no column \"\"; there are: "
		    "name,kind,size,used,unique,origin,created,uuid" },
		{ { "list", "-s", "name,size" }, "sort by one column only" },
		{ { "list", "-s", "name", "-S", "size" },
		    "sort by one column only: -s or -S, once" },
		{ { "diff", "tank/a@b", "tank/a", "-S", "x" },
		    "there is no column \"x\"; there are: offset,length,kind" },
		{ { "list", "--size", "1G" }, "list takes no --size" },
		{ { "volume", "create", "tank/a", "1G", "--force" },
		    "volume create takes no --force" },
		{ { "snapshot", "create", "tank/a@b", "-H" },
		    "snapshot create takes no --no-header" },
		{ { "list", "tank", "x" }, "\"x\" is too much: quarry list [POOL]" },
		{ { "version", "x" }, "\"x\" is too much: quarry version" },
		{ { "pool", "create", "tank" },
		    "something is missing: quarry pool create POOL DEVICE…" },
		{ { "pool", "create", "tank/a", "/dev/sdb" },
		    "\"tank/a\" does not name a pool: write tank" },
		{ { "pool", "create", "-tank", "/dev/sdb" },
		    "there is no option -t; see: quarry --help" },
		{ { "pool", "create", "tank", "" }, "the path of a device is empty" },
		{ { "pool", "create", "tank", "\xff" }, "the path of device 1 is not UTF-8" },
		{ { "pool", "create", "tank", "a", "--size", "0" },
		    "--size must be larger than 0" },
		{ { "pool", "create", "tank", "a", "--size", "x" },
		    "\"x\" is not a size: write a number and a unit, as 4096, 512MiB, 10G or "
		    "1.5T" },
		{ { "pool", "import" }, "something is missing: quarry pool import DEVICE…" },
		{ { "pool", "destroy", "ta nk" }, "\"ta nk\" is not a pool name: 1 to 128 of A-Z "
						  "a-z 0-9 . _ -, the first a letter or "
						  "digit" },
		{ { "volume", "create", "tank/a" },
		    "something is missing: quarry volume create POOL/VOLUME SIZE" },
		{ { "volume", "create", "tank", "1G" },
		    "\"tank\" does not name a volume: write pool/volume" },
		{ { "volume", "create", "tank/a@b", "1G" },
		    "\"tank/a@b\" does not name a volume: write pool/volume" },
		{ { "volume", "create", "tank/a", "0" }, "a volume cannot have size 0" },
		{ { "volume", "create", "tank/a", "10GB" },
		    "\"10GB\" is ambiguous: for units of 1024 leave out the B, as in 10G" },
		{ { "volume", "create", "tank/a", "-1" },
		    "there is no option -1; see: quarry --help" },
		{ { "volume", "create", "--", "tank/a", "-1" },
		    "\"-1\" is not a size: it cannot be negative" },
		{ { "volume", "rename", "tank/a", "lake/b" },
		    "a volume stays in its pool: write tank/b" },
		{ { "volume", "rename", "tank/a", "b" },
		    "\"b\" does not name a volume: write pool/volume" },
		{ { "volume", "set", "tank/a", "readonly" },
		    "\"readonly\" sets nothing: write PROPERTY=VALUE, as readonly=on" },
		{ { "volume", "set", "tank/a", "colour=red" },
		    "a volume has no property \"colour\"; there is: readonly=on|off, "
		    "on-full=error|pause, on-full-timeout=TIME|none, reserve=full|none, "
		    "block-size=512|4096" },
		{ { "volume", "set", "tank/a", "readonly=on", "on-full=error", "readonly=off" },
		    "readonly is set twice: readonly=on and readonly=off" },
		{ { "pool", "set", "tank", "warn=90,80" },
		    "a pool has one property: warn=FIRST,SECOND, two growing percentages as "
		    "warn=80,90, not \"warn=90,80\"" },
		{ { "pool", "set", "tank", "warn=80,90x" },
		    "a pool has one property: warn=FIRST,SECOND, two growing percentages as "
		    "warn=80,90, not \"warn=80,90x\"" },
		{ { "volume", "create", "tank/a", "1G", "--block-size", "1024" },
		    "block-size is 512 or 4096, not \"1024\"" },
		{ { "volume", "create", "tank/a", "1G", "--reserve=half" },
		    "reserve is full or none, not \"half\"" },
		{ { "volume", "set", "tank/a", "readonly=on", "on-full=wait" },
		    "on-full is error or pause, not \"wait\"" },
		{ { "volume", "set", "tank/a", "on-full-timeout=0s" },
		    "on-full-timeout is a time as 30s, 5m, 2h, 1d, or none, not \"0s\"" },
		{ { "volume", "set", "tank/a", "on-full-timeout=-5m" },
		    "on-full-timeout is a time as 30s, 5m, 2h, 1d, or none, not \"-5m\"" },
		{ { "volume", "set", "tank/a", "on-full-timeout=50000d" },
		    "on-full-timeout is a time as 30s, 5m, 2h, 1d, or none, not \"50000d\"" },
		{ { "volume", "set", "tank/a", "readonly=yes" },
		    "readonly is on or off, not \"yes\"" },
		{ { "export", "add", "tank/a" }, "say over which protocol: --iscsi" },
		{ { "export", "add", "tank/a", "--iscsi", "--lun", "256" },
		    "a LUN is a number from 0 to 255, not \"256\"" },
		{ { "export", "add", "tank/a", "--iscsi", "--allow", "a,,b" },
		    "--allow needs names of initiators, with commas between them" },
		{ { "export", "add", "tank/a", "--iscsi", "--chap-secret-file", "f" },
		    "a secret needs a user: --chap USER, or --chap-mutual USER" },
		{ { "snapshot", "create", "tank/a" },
		    "\"tank/a\" does not name a snapshot: write pool/volume@snapshot" },
		{ { "snapshot", "create", "tank/a@b", "tank@b" },
		    "\"tank@b\": a snapshot is named pool/volume@snapshot" },
		{ { "snapshot", "list", "tank/a@b" },
		    "\"tank/a@b\" does not name a pool or a volume: write pool or pool/volume" },
		{ { "snapshot", "delete" },
		    "something is missing: quarry snapshot delete POOL/VOLUME@SNAPSHOT…" },
		{ { "clone", "tank/a", "tank/b" },
		    "\"tank/a\" does not name a snapshot: write pool/volume@snapshot" },
		{ { "rollback", "tank/a" },
		    "\"tank/a\" does not name a snapshot: write pool/volume@snapshot" },
		{ { "diff", "tank", "tank/a" },
		    "\"tank\" does not name a volume or snapshot: write pool/volume or "
		    "pool/volume@snapshot" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct cli cli;
		struct error error = { 0 };

		assert_int_equal(parse(cases[i].words, &cli, &error), -EINVAL);
		assert_string_equal(error.text, cases[i].error);
		cli_fini(&cli);
	}
}

/* --- help --- */

static char *
help_of(const char *const words[WORDS_MAX])
{
	struct cli cli;
	struct error error = { 0 };
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (parse(words, &cli, &error))
		fail_msg("%s", error.text);
	assert_true(cli.options & OPTION_HELP);
	cli_print_help(out, &cli);
	fclose(out);
	cli_fini(&cli);
	return text;
}

static void
test_help(void **state)
{
	static const struct {
		const char *words[WORDS_MAX];
		const char *contains;
	} cases[] = {
		{ { "--help" }, "quarry snapshot create POOL/VOLUME@SNAPSHOT…" },
		{ { "help" }, "Exit status: 0 done, 1 refused or failed, 2 wrong usage." },
		{ { "-h", "--bogus" }, NULL },
		{ { "volume", "--help" }, "quarry volume set POOL/VOLUME PROPERTY=VALUE" },
		{ { "help", "volume", "create" },
		    "Usage: quarry volume create POOL/VOLUME SIZE [OPTION]…" },
		{ { "volume", "create", "-h" }, "--json" },
		{ { "list", "--help" }, "name kind size used unique [origin]" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *text;

		if (!cases[i].contains)
			continue;
		text = help_of(cases[i].words);
		if (!strstr(text, cases[i].contains))
			fail_msg("not in:\n%s", text);
		free(text);
	}
	/* Every command has help that shows how it is used. */
	for (size_t i = 0; i < cli_command_count; i++) {
		const char *words[WORDS_MAX] = { "help", cli_commands[i].noun,
			cli_commands[i].verb };
		char *text = help_of(words);

		assert_non_null(strstr(text, cli_commands[i].summary));
		assert_non_null(strstr(text, "--json"));
		free(text);
	}
}

static void
test_questions(void **state)
{
	static const struct {
		const char *words[WORDS_MAX];
		bool asks;
	} cases[] = {
		{ { "pool", "destroy", "tank" }, true },
		{ { "volume", "delete", "tank/a" }, true },
		{ { "snapshot", "delete", "tank/a@b", "tank/a@c" }, true },
		{ { "rollback", "tank/a@b" }, true },
		{ { "export", "remove", "tank/a", "--iscsi" }, true },
		{ { "volume", "resize", "tank/a", "1G" }, false },
		{ { "volume", "resize", "tank/a", "1G", "-f" }, true },
		{ { "pool", "export", "tank" }, false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct cli cli;
		struct error error = { 0 };

		assert_int_equal(parse(cases[i].words, &cli, &error), 0);
		assert_int_equal(cli.asks, cases[i].asks);
		cli_fini(&cli);
	}
}

/* --- output --- */

static const char result_text[] =
    "{\"pools\":[{\"name\":\"tank\",\"uuid\":\"u\",\"state\":\"online\",\"state_reason\":null,"
    "\"size_bytes\":10737418240,\"allocated_bytes\":1073741824,\"live_bytes\":1000,"
    "\"available_bytes\":8589934592,\"usable_bytes\":10307921510,"
    "\"provisioned_bytes\":10995116285952,\"reserved_bytes\":4096,\"full_percent\":85,"
    "\"warn_percent\":[80,90],\"checkpoint\":3,\"checkpoint_"
    "running\":true,\"deleting\":2,"
    "\"deleting_done_permille\":455,\"relocating\":true,\"relocated_bytes\":8192,"
    "\"relocation_permille\":305,\"rebalancing\":{\"left_bytes\":1048576,"
    "\"done_permille\":505,\"seconds_left\":600},\"scrub\":{\"state\":\"running\",\"started\":"
    "\"T6\",\"ended\":"
    "null,"
    "\"done_permille\":455,\"seconds_left\":600,\"checked_bytes\":4096,\"damaged_blocks\":1,"
    "\"unverified_blocks\":0,\"damage\":[{\"device\":\"/d0\",\"device_offset_bytes\":8192,"
    "\"volume\":\"tank/a\",\"offset_bytes\":4096}]},\"devices\":[{\"path\":\"/d0\",\"uuid\":\"u\","
    "\"state\":\"online\",\"size_bytes\":10737418240,\"slabs\":640,\"slabs_free\":600,\"errors\":0}"
    "],"
    "\"images\":["
    "{\"kind\":\"volume\",\"name\":\"tank/a\",\"uuid\":\"u\",\"origin\":null,"
    "\"size_bytes\":10995116277760,\"used_bytes\":4096,\"unique_bytes\":0,\"created\":\"T1\","
    "\"readonly\":false,\"clients\":1},"
    "{\"kind\":\"snapshot\",\"name\":\"tank/a@m\",\"uuid\":\"u\",\"origin\":null,"
    "\"size_bytes\":10995116277760,\"used_bytes\":1536,\"unique_bytes\":null,\"created\":\"T2\","
    "\"readonly\":true,\"clients\":0},"
    "{\"kind\":\"snapshot\",\"name\":\"tank/a@n\",\"uuid\":\"u\",\"origin\":null,"
    "\"size_bytes\":10995116277760,\"used_bytes\":2048,\"unique_bytes\":0,\"created\":\"T3\","
    "\"readonly\":true,\"clients\":0},"
    "{\"kind\":\"volume\",\"name\":\"tank/b\",\"uuid\":\"u\",\"origin\":\"tank/a@m\","
    "\"size_bytes\":8192,\"used_bytes\":8192,\"unique_bytes\":4096,\"created\":\"T4\","
    "\"readonly\":true,\"clients\":0},"
    "{\"kind\":\"snapshot\",\"name\":\"tank/b@x\",\"uuid\":\"u\",\"origin\":null,"
    "\"size_bytes\":8192,\"used_bytes\":0,\"unique_bytes\":0,\"created\":\"T5\","
    "\"readonly\":true,\"clients\":0}]}]}";

static void
assert_shown(const char *const words[WORDS_MAX], const char *result, const char *expected)
{
	struct cli cli;
	struct error error = { 0 };
	json_t *json = json_loads(result, 0, NULL);
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(json);
	if (parse(words, &cli, &error))
		fail_msg("%s", error.text);
	show_result(out, &cli, json);
	fclose(out);
	assert_string_equal(text, expected);
	free(text);
	json_decref(json);
	cli_fini(&cli);
}

static void
test_tables(void **state)
{
	assert_shown((const char *[WORDS_MAX]){ "pool", "list" }, result_text,
	    "NAME  STATE    SIZE  ALLOCATED  AVAILABLE  PROVISIONED  DEVICES  DELETING\n"
	    "tank  online  10GiB       1GiB       8GiB      10.0TiB        1  2 (45.5%)\n");
	assert_shown((const char *[WORDS_MAX]){ "pool", "list", "-Hp" }, result_text,
	    "tank\tonline\t10737418240\t1073741824\t8589934592\t10995116285952\t1\t2\n");
	assert_shown((const char *[WORDS_MAX]){ "scrub", "status" }, result_text,
	    "POOL  STATE    DONE   LEFT    CHECKED  DAMAGED  STARTED  ENDED\n"
	    "tank  running  45.5%  10 min     4KiB        1  T6       -\n");
	assert_shown((const char *[WORDS_MAX]){ "volume", "list" }, result_text,
	    "NAME     SIZE  USED  UNIQUE  READONLY  CLIENTS  ORIGIN\n"
	    "tank/a  10TiB  4KiB      0B  off             1  -\n"
	    "tank/b   8KiB  8KiB    4KiB  on              0  tank/a@m\n");
	assert_shown(
	    (const char *[WORDS_MAX]){ "volume", "list", "-Ho", "name,size", "-s", "size" },
	    result_text, "tank/b\t8KiB\ntank/a\t10TiB\n");
	assert_shown((const char *[WORDS_MAX]){ "volume", "list", "-Ho", "name", "-S", "used" },
	    result_text, "tank/b\ntank/a\n");
	assert_shown((const char *[WORDS_MAX]){ "snapshot", "list", "-o", "name,used,unique" },
	    result_text,
	    "NAME         USED  UNIQUE\n"
	    "tank/a@m  1.50KiB       -\n"
	    "tank/a@n     2KiB      0B\n"
	    "tank/b@x       0B      0B\n");
	assert_shown((const char *[WORDS_MAX]){ "snapshot", "list", "tank/b", "-Ho", "name" },
	    result_text, "tank/b@x\n");
	assert_shown((const char *[WORDS_MAX]){ "volume", "list" }, "{\"pools\":[]}",
	    "NAME  SIZE  USED  UNIQUE  READONLY  CLIENTS  ORIGIN\n");
}

static void
test_tree(void **state)
{
	assert_shown((const char *[WORDS_MAX]){ "list" }, result_text,
	    "NAME              KIND       SIZE     USED  UNIQUE\n"
	    "tank              pool      10GiB     1GiB       -\n"
	    "  tank/a          volume    10TiB     4KiB      0B\n"
	    "    tank/a@m      snapshot  10TiB  1.50KiB       -\n"
	    "      tank/b      volume     8KiB     8KiB    4KiB\n"
	    "        tank/b@x  snapshot   8KiB       0B      0B\n"
	    "    tank/a@n      snapshot  10TiB     2KiB      0B\n");
	assert_shown((const char *[WORDS_MAX]){ "list", "-H", "-o", "name" }, result_text,
	    "tank\ntank/a\ntank/a@m\ntank/b\ntank/b@x\ntank/a@n\n");
	/* A clone whose snapshot is hidden stands beside the others. */
	assert_shown((const char *[WORDS_MAX]){ "list", "-H", "-o", "name,origin" },
	    "{\"pools\":[{\"name\":\"t\",\"images\":[{\"kind\":\"volume\",\"name\":\"t/a\","
	    "\"origin\":\"t/gone@x\"}]}]}",
	    "t\t-\nt/a\tt/gone@x\n");
}

static void
test_status(void **state)
{
	assert_shown((const char *[WORDS_MAX]){ "pool", "status" }, result_text,
	    "pool tank: online\n"
	    "  uuid        u\n"
	    "  size        10GiB\n"
	    "  allocated   1GiB\n"
	    "  live        1000B\n"
	    "  available   8GiB\n"
	    "  filled      85%: WARNING (warns at 80%, 90%)\n"
	    "  provisioned 10.0TiB of 9.60GiB usable: over-committed\n"
	    "  reserved    4KiB\n"
	    "  checkpoint  3, the next is being written\n"
	    "  deleting    2 in the background, 45.5% done\n"
	    "  relocating  at 30.5% of its speed, 8KiB moved since the import\n"
	    "  rebalancing 50.5% done, 1MiB left, about 10 min\n"
	    "  scrub       running, 45.5% done, about 10 min left, 1 damaged blocks\n"
	    "  damaged     /d0 at byte 8192: tank/a at byte 4096\n"
	    "\n"
	    "PATH  STATE    SIZE  SLABS  FREE  ERRORS  HEALED\n"
	    "/d0   online  10GiB    640   600       0       -\n");
	assert_shown((const char *[WORDS_MAX]){ "pool", "status" }, "{\"pools\":[]}",
	    "no pools; make one: quarry pool create POOL DEVICE…\n");
}

static void
test_diff_output(void **state)
{
	static const char ranges[] =
	    "{\"ranges\":[{\"offset_bytes\":0,\"length_bytes\":4096,\"hole\":false},"
	    "{\"offset_bytes\":1048576,\"length_bytes\":8192,\"hole\":true}]}";

	assert_shown((const char *[WORDS_MAX]){ "diff", "t/a@b", "t/a" }, ranges,
	    " OFFSET  LENGTH  KIND\n"
	    "      0    4096  data\n"
	    "1048576    8192  hole\n");
}

static void
test_dry_run(void **state)
{
	static const char would[] = "{\"would\":\"delete volume tank/a with its 2 snapshots\"}";

	assert_shown((const char *[WORDS_MAX]){ "volume", "delete", "tank/a", "-fn" }, would,
	    "would delete volume tank/a with its 2 snapshots\n");
	assert_shown((const char *[WORDS_MAX]){ "volume", "delete", "tank/a", "-fnj" }, would,
	    "{\n"
	    "  \"schema\": 1,\n"
	    "  \"would\": \"delete volume tank/a with its 2 snapshots\"\n"
	    "}\n");
}

static void
test_json(void **state)
{
	static const struct {
		const char *words[WORDS_MAX];
		const char *key; /* the one beside schema */
		size_t count;
	} cases[] = {
		{ { "pool", "list", "--json" }, "pools", 1 },
		{ { "pool", "status", "-j" }, "pools", 1 },
		{ { "volume", "list", "-j" }, "volumes", 2 },
		{ { "snapshot", "list", "-j" }, "snapshots", 3 },
		{ { "list", "-j" }, "pools", 1 },
		{ { "volume", "create", "tank/a", "1G", "-j" }, "volumes", 1 },
		{ { "snapshot", "create", "tank/a@b", "tank/c@b", "-j" }, "snapshots", 2 },
		{ { "pool", "import", "/a", "/b", "-j" }, "devices", 2 },
		{ { "rollback", "tank/a@b", "-j" }, "volumes", 1 },
		{ { "version", "-j" }, "programs", 2 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct cli cli;
		struct error error = { 0 };
		json_t *result = json_loads(result_text, 0, NULL);
		json_t *shown;
		char *text;
		size_t len;
		FILE *out = open_memstream(&text, &len);

		assert_int_equal(parse(cases[i].words, &cli, &error), 0);
		show_result(out, &cli, result);
		fclose(out);
		shown = json_loads(text, 0, NULL);
		assert_non_null(shown);
		assert_int_equal(json_object_size(shown), 2);
		assert_int_equal(json_integer_value(json_object_get(shown, "schema")), 1);
		assert_int_equal(
		    json_array_size(json_object_get(shown, cases[i].key)), cases[i].count);
		json_decref(shown);
		json_decref(result);
		free(text);
		cli_fini(&cli);
	}
}

static void
test_tree_json(void **state)
{
	assert_shown((const char *[WORDS_MAX]){ "list", "--json" },
	    "{\"pools\":[{\"name\":\"t\",\"images\":[{\"kind\":\"volume\",\"name\":\"t/a\"},"
	    "{\"kind\":\"snapshot\",\"name\":\"t/a@b\",\"unique_bytes\":null}]}]}",
	    "{\n"
	    "  \"schema\": 1,\n"
	    "  \"pools\": [\n"
	    "    {\n"
	    "      \"name\": \"t\",\n"
	    "      \"volumes\": [\n"
	    "        {\n"
	    "          \"kind\": \"volume\",\n"
	    "          \"name\": \"t/a\",\n"
	    "          \"snapshots\": [\n"
	    "            {\n"
	    "              \"kind\": \"snapshot\",\n"
	    "              \"name\": \"t/a@b\",\n"
	    "              \"unique_bytes\": null\n"
	    "            }\n"
	    "          ]\n"
	    "        }\n"
	    "      ]\n"
	    "    }\n"
	    "  ]\n"
	    "}\n");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_usage_errors),
		cmocka_unit_test(test_help),
		cmocka_unit_test(test_questions),
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_tree),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_diff_output),
		cmocka_unit_test(test_dry_run),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_tree_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
