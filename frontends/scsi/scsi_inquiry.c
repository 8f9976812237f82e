/* SPDX-License-Identifier: Apache-2.0 */
/* INQUIRY and its vital product data pages (SPC-4 6.6 and 7.8, SBC-3 6.6). */
#include <stdio.h>

#include "frontends/scsi/scsi_internal.h"

#define VENDOR "QUARRY  "
#define PRODUCT "VOLUME          "
#define REVISION "0001"
#define PAGE_BYTES_MAX 1024u

enum {
	VPD_SUPPORTED = 0x00,
	VPD_SERIAL = 0x80,
	VPD_IDENTIFICATION = 0x83,
	VPD_EXTENDED = 0x86,
	VPD_BLOCK_LIMITS = 0xb0,
	VPD_CHARACTERISTICS = 0xb1,
	VPD_PROVISIONING = 0xb2,
};

static size_t
put_serial(const struct scsi_task *task, uint8_t *page)
{
	uuid_format(&task->unit->identity, (char *)page + 4);
	return 4 + UUID_TEXT_BYTES - 1;
}

/* --- 83h: names that stay over rename, restart and import, for they follow from the UUID --- */

struct designator {
	uint8_t code_set; /* 1 binary, 2 ASCII, 3 UTF-8 */
	uint8_t association;
	uint8_t type;
};

static size_t
put_designator(uint8_t *at, struct designator kind, const void *bytes, size_t len_bytes)
{
	/* Names are padded with zeroes to a multiple of four. */
	size_t padded_bytes = kind.type == 8 ? round_up(len_bytes + 1, 4) : len_bytes;

	at[0] = (uint8_t)(0x50 | kind.code_set); /* protocol identifier: iSCSI */
	at[1] = (uint8_t)((kind.association ? 0x80 : 0) | kind.association << 4 | kind.type);
	if (!kind.association)
		at[0] &= 0x0f;
	at[3] = (uint8_t)padded_bytes;
	memcpy(at + 4, bytes, len_bytes);
	return 4 + padded_bytes;
}

size_t
scsi_designator(
    const struct scsi_unit *unit, unsigned type, uint8_t bytes[SCSI_DESIGNATOR_BYTES_MAX])
{
	const uint8_t *identity = unit->identity.bytes;

	switch (type) {
	case 3: /* NAA, locally assigned: there is no company identifier behind it */
		memcpy(bytes, identity, 8);
		bytes[0] = (uint8_t)(0x30 | (bytes[0] & 0x0f));
		return 8;
	case 1: /* T10 */
		memcpy(bytes, VENDOR, 8);
		uuid_format(&unit->identity, (char *)bytes + 8);
		return 8 + UUID_TEXT_BYTES - 1;
	case 0x0a: /* UUID */
		bytes[0] = 0x10;
		bytes[1] = 0;
		memcpy(bytes + 2, identity, 16);
		return 18;
	default:
		return 0;
	}
}

static size_t
put_identification(const struct scsi_task *task, uint8_t *page)
{
	static const struct designator of_unit[] = { { 1, 0, 3 }, { 2, 0, 1 }, { 1, 0, 0x0a } };
	const char *target = task->nexus->target_name;
	char port[SCSI_NAME_BYTES_MAX + 16];
	size_t at = 4;

	for (size_t i = 0; i < ARRAY_SIZE(of_unit); i++) {
		uint8_t designator[SCSI_DESIGNATOR_BYTES_MAX];
		size_t len_bytes = scsi_designator(task->unit, of_unit[i].type, designator);

		at += put_designator(page + at, of_unit[i], designator, len_bytes);
	}
	at += put_designator(
	    page + at, (struct designator){ 1, 1, 4 }, "\0\0\0\1", 4); /* relative port */
	at += put_designator(page + at, (struct designator){ 1, 1, 5 }, "\0\0\0\1", 4); /* group */
	snprintf(port, sizeof(port), "%s,t,0x%04x", target, SCSI_PORT_GROUP);
	at += put_designator(page + at, (struct designator){ 3, 1, 8 }, port, strlen(port));
	at += put_designator(page + at, (struct designator){ 3, 2, 8 }, target, strlen(target));
	return at;
}

/* --- the others --- */

static size_t
put_extended(const struct scsi_task *task, uint8_t *page)
{
	page[5] = 0x07; /* HEADSUP, ORDSUP, SIMPSUP */
	page[6] = 0x01; /* V_SUP: the cache is volatile */
	page[7] = 0x01; /* LUICLR */
	return 64;
}

static size_t
put_block_limits(const struct scsi_task *task, uint8_t *page)
{
	uint32_t block_bytes = task->unit->block_bytes;

	page[4] = 0x01; /* WSNZ: none is not all, so that nobody wipes a disk by mistake */
	page[5] = (uint8_t)min_u64(
	    SCSI_COMPARE_BLOCKS_MAX, scsi_atomic_bytes_max(task->nexus) / block_bytes);
	put_be16(page + 6, BLOCK_BYTES / block_bytes);
	put_be32(page + 8, SCSI_TRANSFER_BYTES_MAX / block_bytes);
	put_be32(page + 12, MIB / block_bytes);
	put_be32(page + 16, SCSI_TRANSFER_BYTES_MAX / block_bytes);
	put_be32(page + 20, UINT32_MAX);
	put_be32(page + 24, SCSI_UNMAP_DESCRIPTORS_MAX);
	put_be32(page + 28, BLOCK_BYTES / block_bytes);
	put_be32(page + 32, 0x80000000); /* aligned to 0 */
	put_be64(page + 36, SCSI_WRITE_SAME_BYTES_MAX / block_bytes);
	put_be32(page + 44, scsi_atomic_bytes_max(task->nexus) / block_bytes);
	return 64;
}

static size_t
put_characteristics(const struct scsi_task *task, uint8_t *page)
{
	put_be16(page + 4, 1); /* does not rotate */
	page[7] = 0x40;        /* WABEREQ: behind SANITIZE: BLOCK ERASE reads succeed */
	return 64;
}

static size_t
put_provisioning(const struct scsi_task *task, uint8_t *page)
{
	page[4] = (uint8_t)scsi_set_exponent(task->unit); /* there are thresholds */
	page[5] = 0xe4; /* LBPU, LBPWS, LBPWS10; LBPRZ: what is unmapped reads as zeroes */
	page[6] = 0x02; /* thin */
	return 8;
}

static size_t put_supported(const struct scsi_task *task, uint8_t *page);

static const struct {
	uint8_t code;
	size_t (*put)(const struct scsi_task *task, uint8_t *page);
} pages[] = {
	{ VPD_SUPPORTED, put_supported },
	{ VPD_SERIAL, put_serial },
	{ VPD_IDENTIFICATION, put_identification },
	{ VPD_EXTENDED, put_extended },
	{ VPD_BLOCK_LIMITS, put_block_limits },
	{ VPD_CHARACTERISTICS, put_characteristics },
	{ VPD_PROVISIONING, put_provisioning },
};

static size_t
put_supported(const struct scsi_task *task, uint8_t *page)
{
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
		page[4 + i] = pages[i].code;
	return 4 + ARRAY_SIZE(pages);
}

static void
run_page(struct scsi_task *task)
{
	uint8_t *page = scsi_answer_begin(task, PAGE_BYTES_MAX);

	if (!page)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		size_t len_bytes;

		if (pages[i].code != task->parsed.bytes[2])
			continue;
		len_bytes = pages[i].put(task, page);
		CHECK(len_bytes <= PAGE_BYTES_MAX);
		page[1] = pages[i].code;
		put_be16(page + 2, len_bytes - 4);
		return scsi_answer(task, len_bytes);
	}
	scsi_refuse_cdb(task, 2, 8);
}

void
scsi_run_inquiry(struct scsi_task *task)
{
	static const uint16_t versions[] = {
		0x0080, /* SAM-4 */
		0x0960, /* iSCSI */
		0x0460, /* SPC-4 */
		0x04c0, /* SBC-3 */
	};
	uint8_t answer[96] = { 0 };

	if (task->parsed.bytes[1] & 0x01) {
		if (!task->unit)
			return scsi_check_condition(
			    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_LUN_NOT_SUPPORTED);
		return run_page(task);
	}
	if (task->parsed.bytes[2])
		return scsi_refuse_cdb(task, 2, 8);
	answer[0] = task->unit ? 0x00 : 0x7f;
	answer[2] = 0x06; /* SPC-4 */
	answer[3] = 0x12; /* HISUP, response format 2 */
	answer[4] = sizeof(answer) - 5;
	answer[5] = 0x10; /* implicit ALUA */
	answer[7] = 0x02; /* CMDQUE */
	memcpy(answer + 8, VENDOR PRODUCT REVISION, 28);
	for (size_t i = 0; i < ARRAY_SIZE(versions); i++)
		put_be16(answer + 58 + 2 * i, versions[i]);
	scsi_answer_bytes(task, answer, sizeof(answer));
}
