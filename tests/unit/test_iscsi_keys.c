/* SPDX-License-Identifier: Apache-2.0 */
/* Are keys negotiated by the RFC's rules, and bad text refused?  Are target names reversible? */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "frontends/iscsi/iscsi_session.h"

#define TEXT(literal) (literal), sizeof(literal)

static void
test_answers(void **state)
{
	static const struct {
		const char *offer;
		const char *answer; /* "": none */
	} cases[] = {
		{ "HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C" },
		{ "HeaderDigest=X-mine,None", "HeaderDigest=None" },
		{ "DataDigest=X-mine", "DataDigest=Reject" },
		{ "AuthMethod=KRB5,None", "" }, /* answered by who knows what is offered */
		{ "InitialR2T=No", "InitialR2T=No" },
		{ "InitialR2T=Yes", "InitialR2T=Yes" },
		{ "ImmediateData=No", "ImmediateData=No" },
		{ "ImmediateData=Maybe", "ImmediateData=Reject" },
		{ "MaxBurstLength=16776192", "MaxBurstLength=1048576" },
		{ "MaxBurstLength=0x200", "MaxBurstLength=512" },
		{ "MaxBurstLength=511", "MaxBurstLength=Reject" },
		{ "MaxBurstLength=99999999999999999999", "MaxBurstLength=Reject" },
		{ "MaxConnections=8", "MaxConnections=1" },
		{ "ErrorRecoveryLevel=2", "ErrorRecoveryLevel=0" },
		{ "DefaultTime2Wait=2", "DefaultTime2Wait=2" },
		{ "DefaultTime2Retain=20", "DefaultTime2Retain=0" },
		{ "DataPDUInOrder=No", "DataPDUInOrder=Yes" },
		{ "OFMarker=Yes", "OFMarker=No" },
		{ "X-com.example=1", "X-com.example=NotUnderstood" },
		{ "InitiatorAlias=me", "" },
		{ "MaxRecvDataSegmentLength=8192", "" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct iscsi_params params;
		struct iscsi_text answer = { 0 };

		iscsi_params_init(&params);
		assert_int_equal(iscsi_keys_take(&params, (const uint8_t *)cases[i].offer,
				     strlen(cases[i].offer) + 1, true, &answer),
		    0);
		assert_string_equal(
		    answer.len_bytes ? (const char *)answer.bytes : "", cases[i].answer);
		free(answer.bytes);
	}
}

static void
test_results(void **state)
{
	struct iscsi_params params;
	struct iscsi_text answer = { 0 };

	(void)state;
	iscsi_params_init(&params);
	assert_int_equal(
	    iscsi_keys_take(&params,
		(const uint8_t *)TEXT("InitiatorName=IQN.A:B\0HeaderDigest=CRC32C\0"
				      "FirstBurstLength=262144\0MaxBurstLength=65536\0"
				      "MaxRecvDataSegmentLength=4096\0SessionType=Discovery"),
		true, &answer),
	    0);
	assert_string_equal(params.initiator_name, "iqn.a:b");
	assert_int_equal(params.header_digest, 1);
	assert_int_equal(params.data_digest, 0);
	assert_int_equal(params.max_burst_bytes, 65536);
	assert_int_equal(params.first_burst_bytes, 65536); /* never beyond the other */
	assert_int_equal(params.send_bytes_max, 4096);
	assert_true(params.discovery);
	free(answer.bytes);
}

static void
test_bad_text(void **state)
{
	static const struct {
		const char *text;
		size_t len_bytes;
	} cases[] = {
		{ TEXT("nonsense") },
		{ TEXT("=value") },
		{ "HeaderDigest=None", 17 }, /* not ended */
		{ TEXT("HeaderDigest=None\0HeaderDigest=None") },
		{ TEXT("MaxRecvDataSegmentLength=1") },
		{ TEXT("InitiatorName=") },
		{ TEXT("InitiatorName=with space") },
		{ TEXT("SessionType=Other") },
		{ TEXT("SendTargets=All") }, /* not at login */
		{ TEXT("AuthMethod=") },
		{ TEXT("CHAP_I=00000000") },
		{ TEXT("CHAP_I=1\0CHAP_I=1") },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct iscsi_params params;
		struct iscsi_text answer = { 0 };

		iscsi_params_init(&params);
		assert_int_equal(iscsi_keys_take(&params, (const uint8_t *)cases[i].text,
				     cases[i].len_bytes, true, &answer),
		    -EINVAL);
		free(answer.bytes);
	}
}

static void
test_target_names(void **state)
{
	static const struct {
		const char *name;
		const char *target;
	} cases[] = {
		{ "tank/vm1", "iqn.2026-11.io.quarry:tank.vm1" },
		{ "tank/vm.1", "iqn.2026-11.io.quarry:tank.vm.1" },
		{ "t.k/vm1", "iqn.2026-11.io.quarry:t:2ek.vm1" },
		{ "Tank/a_b", "iqn.2026-11.io.quarry::54ank.a:5fb" },
		{ "tank/vm1@s1", "iqn.2026-11.io.quarry:tank.vm1:40s1" },
	};
	static const char *const bad[] = { "iqn.2026-11.io.quarry:", "iqn.2026-11.io.quarry:tank",
		"iqn.2026-11.io.quarry:tank.:0", "iqn.2026-11.io.quarry:tank.a:00b",
		"iqn.other:x.y" };
	char target[ISCSI_NAME_BYTES_MAX + 1];
	char text[NAME_TEXT_SIZE];
	struct name name;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(name_parse(&name, cases[i].name, NULL), 0);
		iscsi_target_name(&name, target);
		assert_string_equal(target, cases[i].target);
		assert_int_equal(iscsi_target_parse(target, &name), 0);
		name_format(&name, text);
		assert_string_equal(text, cases[i].name);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(iscsi_target_parse(bad[i], &name), -EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_results),
		cmocka_unit_test(test_bad_text),
		cmocka_unit_test(test_target_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
