/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MODE SENSE, MODE SELECT and LOG SENSE.
 *
 * Pages are built from the unit's flags; beside each page stands what of it may be changed.  A MODE
 * SELECT is checked as a whole before anything of it takes effect.
 *
 * The thresholds of logical block provisioning are those at which the pool warns its operator; an
 * initiator is told of them, and does not set them.
 */
#include "frontends/scsi/scsi_internal.h"

enum {
	PAGE_CACHING = 0x08,
	PAGE_CONTROL = 0x0a,
	PAGE_EXCEPTIONS = 0x1c,
	PAGE_ALL = 0x3f,
	PAGE_SUBPAGE = 0x40, /* SPF: a subpage and a longer length follow */
	SUBPAGE_PROVISIONING = 0x02,
	SUBPAGE_ALL = 0xff,
	CONTROL_CURRENT = 0,
	CONTROL_CHANGEABLE = 1,
	CONTROL_DEFAULT = 2,
	CONTROL_SAVED = 3,
	PAGE_BYTES_MAX = 32,
	ANSWER_BYTES_MAX = 160,
	THRESHOLDS_AT = 16,
	THRESHOLD_BYTES = 8,
	LOG_SUPPORTED = 0x00,
	LOG_PROVISIONING = 0x0c,
	LOG_EXCEPTIONS = 0x2f,
	LOG_ANSWER_BYTES_MAX = 32,
	RESOURCE_AVAILABLE = 0x01,
	RESOURCE_USED = 0x02,
};

#define ASC_SAVING_NOT_SUPPORTED ((enum scsi_asc)0x3900)

static const struct mode_page {
	uint8_t code;
	uint8_t subpage; /* 0: none, and a header of two bytes */
	uint8_t len_bytes;
	uint8_t defaults[PAGE_BYTES_MAX];
	uint8_t changeable[PAGE_BYTES_MAX];
} mode_pages[] = {
	{ PAGE_CACHING, 0, 20, { PAGE_CACHING, 18, 0x04 /* WCE */ }, { PAGE_CACHING, 18 } },
	{ PAGE_CONTROL, 0, 12,
	    { PAGE_CONTROL, 10, 0x00, 0x10 /* reorders freely */, 0, 0x40 /* TAS */ },
	    { PAGE_CONTROL, 10, 0x04 /* D_SENSE */, 0, 0x08 /* SWP */ } },
	{ PAGE_EXCEPTIONS, 0, 12, { PAGE_EXCEPTIONS, 10, 0x08 /* DEXCPT */ },
	    { PAGE_EXCEPTIONS, 10 } },
	{ PAGE_EXCEPTIONS, SUBPAGE_PROVISIONING, 32,
	    { PAGE_EXCEPTIONS | PAGE_SUBPAGE, SUBPAGE_PROVISIONING, 0, 28 },
	    { PAGE_EXCEPTIONS | PAGE_SUBPAGE, SUBPAGE_PROVISIONING, 0, 28 } },
};
static_assert(THRESHOLDS_AT + WARN_LEVELS * THRESHOLD_BYTES == 32, "the provisioning page");

/* In threshold sets; rounded up. */
static uint64_t
sets_of(uint64_t bytes)
{
	return min_u64(div_round_up(bytes, MIB), UINT32_MAX);
}

/* Threshold descriptors: enabled, of a number of sets, armed when what is available decreases. */
static void
put_thresholds(const struct scsi_nexus *nexus, uint8_t *bytes)
{
	struct volume_space space;

	volume_space(nexus->volume, &space);
	for (unsigned i = 0; i < WARN_LEVELS; i++) {
		uint8_t *at = bytes + THRESHOLDS_AT + (size_t)i * THRESHOLD_BYTES;

		at[0] = 0x80;
		at[1] = RESOURCE_AVAILABLE;
		put_be32(
		    at + 4, sets_of(space.usable_bytes / 100 * (100u - space.warn_percent[i])));
	}
}

static void
page_current(const struct scsi_nexus *nexus, const struct mode_page *page, uint8_t *bytes)
{
	const struct scsi_unit *unit = nexus->unit;

	memcpy(bytes, page->defaults, page->len_bytes);
	if (page->code == PAGE_CONTROL) {
		bytes[2] |= unit->descriptor_sense ? 0x04 : 0;
		bytes[4] |= unit->write_protect ? 0x08 : 0;
	}
	if (page->subpage == SUBPAGE_PROVISIONING)
		put_thresholds(nexus, bytes);
}

static size_t
put_page(const struct scsi_task *task, const struct mode_page *page, unsigned control, uint8_t *at)
{
	if (control == CONTROL_CHANGEABLE)
		memcpy(at, page->changeable, page->len_bytes);
	else if (control == CONTROL_DEFAULT && page->subpage != SUBPAGE_PROVISIONING)
		memcpy(at, page->defaults, page->len_bytes);
	else
		page_current(task->nexus, page, at);
	return page->len_bytes;
}

static size_t
put_block_descriptor(const struct scsi_unit *unit, bool is_long, uint8_t *at)
{
	if (is_long) {
		put_be64(at, scsi_blocks(unit));
		put_be32(at + 12, unit->block_bytes);
		return 16;
	}
	put_be32(at, min_u64(scsi_blocks(unit), UINT32_MAX));
	put_be32(at + 4, unit->block_bytes);
	return 8;
}

void
scsi_run_mode_sense(struct scsi_task *task)
{
	const uint8_t *cdb = task->parsed.bytes;
	bool ten = task->parsed.command->cdb_bytes == 10;
	bool with_descriptor = !(cdb[1] & 0x08);
	bool is_long = ten && cdb[1] & 0x10;
	unsigned control = cdb[2] >> 6;
	uint8_t code = cdb[2] & 0x3f;
	uint8_t subpage = cdb[3];
	uint8_t answer[ANSWER_BYTES_MAX] = { 0 };
	uint8_t flags = (uint8_t)(0x10 | (scsi_unit_readonly(task->nexus) ? 0x80 : 0));
	size_t at = ten ? 8 : 4;
	bool found = false;

	if (control == CONTROL_SAVED)
		return scsi_check_condition(task, SCSI_ILLEGAL_REQUEST, ASC_SAVING_NOT_SUPPORTED);
	if (with_descriptor) {
		size_t len_bytes = put_block_descriptor(task->unit, is_long, answer + at);

		answer[ten ? 7 : 3] = (uint8_t)len_bytes;
		at += len_bytes;
	}
	for (size_t i = 0; i < ARRAY_SIZE(mode_pages); i++) {
		if (code != PAGE_ALL && code != mode_pages[i].code)
			continue;
		if (subpage != SUBPAGE_ALL && subpage != mode_pages[i].subpage)
			continue;
		found = true;
		at += put_page(task, &mode_pages[i], control, answer + at);
	}
	if (!found)
		return scsi_refuse_cdb(task, subpage ? 3 : 2, subpage ? 8 : 5);
	if (ten) {
		put_be16(answer, at - 2);
		answer[3] = flags;
		answer[4] = is_long ? 0x01 : 0;
	} else {
		answer[0] = (uint8_t)(at - 1);
		answer[2] = flags;
	}
	scsi_answer_bytes(task, answer, at);
}

/* --- MODE SELECT --- */

/* Applies one page, or only checks it; false: @wrong is the byte in it. */
static bool
select_page(struct scsi_nexus *nexus, const uint8_t *bytes, bool apply, size_t *wrong)
{
	bool has_subpage = bytes[0] & PAGE_SUBPAGE;
	unsigned subpage = has_subpage ? bytes[1] : 0;

	for (size_t i = 0; i < ARRAY_SIZE(mode_pages); i++) {
		const struct mode_page *page = &mode_pages[i];
		uint8_t current[PAGE_BYTES_MAX];

		if (page->code != (bytes[0] & ~PAGE_SUBPAGE) || page->subpage != subpage)
			continue;
		page_current(nexus, page, current);
		for (size_t k = 1; k < page->len_bytes; k++) {
			bool is_length = has_subpage ? k == 2 || k == 3 : k == 1;

			*wrong = k;
			if ((bytes[k] ^ current[k]) &
			    (is_length ? 0xff : (uint8_t)~page->changeable[k]))
				return false;
		}
		if (apply && page->code == PAGE_CONTROL) {
			nexus->unit->descriptor_sense = bytes[2] & 0x04;
			nexus->unit->write_protect = bytes[4] & 0x08;
		}
		return true;
	}
	*wrong = 0;
	return false;
}

/* The length of the page there with its header; 0: the list is shorter. */
static size_t
page_bytes(const uint8_t *at, size_t left_bytes)
{
	size_t bytes;

	if (left_bytes < 4)
		return 0;
	bytes = at[0] & PAGE_SUBPAGE ? 4 + read_be(at + 2, 2) : 2 + (size_t)at[1];
	return bytes <= left_bytes ? bytes : 0;
}

static void
select_pages(struct scsi_task *task, const uint8_t *list, size_t at, size_t len_bytes)
{
	for (int apply = 0; apply < 2; apply++) {
		size_t bytes, wrong;

		for (size_t i = at; i < len_bytes; i += bytes) {
			uint8_t page[PAGE_BYTES_MAX] = { 0 };

			bytes = page_bytes(list + i, len_bytes - i);
			if (bytes == 0)
				return scsi_check_condition(
				    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
			/* Longer than any page of ours is wrong before it is looked at. */
			if (bytes > sizeof(page))
				return scsi_refuse_parameter(task, (uint16_t)(i + 1), 8);
			memcpy(page, list + i, bytes);
			if (!select_page(task->nexus, page, apply, &wrong))
				return scsi_refuse_parameter(task, (uint16_t)(i + wrong), 8);
		}
	}
	scsi_attention_all(task->unit, task->nexus, SCSI_ASC_MODE_PARAMETERS_CHANGED);
	scsi_good(task);
}

void
scsi_run_mode_select(struct scsi_task *task)
{
	bool ten = task->parsed.command->cdb_bytes == 10;
	size_t header_bytes = ten ? 8 : 4;
	size_t len_bytes = task->data_out.len_bytes;
	const uint8_t *list = scsi_payload(&task->data_out);
	size_t descriptor_bytes;

	if (!(task->parsed.bytes[1] & 0x10)) /* PF: pages as the standard has them */
		return scsi_refuse_cdb(task, 1, 4);
	if (task->parsed.bytes[1] & 0x01)
		return scsi_refuse_cdb(task, 1, 0);
	if (len_bytes == 0)
		return scsi_good(task);
	if (len_bytes < header_bytes)
		return scsi_check_condition(
		    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
	descriptor_bytes = ten ? read_be(list + 6, 2) : list[3];
	if (descriptor_bytes > len_bytes - header_bytes)
		return scsi_check_condition(
		    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
	if (descriptor_bytes != 0 && descriptor_bytes != 8 && descriptor_bytes != 16)
		return scsi_refuse_parameter(task, ten ? 6 : 3, 8);
	if (descriptor_bytes) { /* only to keep the length of a block is fine */
		const uint8_t *block = list + header_bytes + descriptor_bytes - 4;
		uint64_t block_bytes =
		    read_be(block, 4) & (descriptor_bytes == 8 ? 0xffffff : ~0ull);

		if (block_bytes != task->unit->block_bytes)
			return scsi_refuse_parameter(task, (uint16_t)(block - list), 8);
	}
	select_pages(task, list, header_bytes + descriptor_bytes, len_bytes);
}

/* --- LOG SENSE: the pool's room, and nothing that has gone wrong --- */

static size_t
put_supported(const struct scsi_task *task, uint16_t from, uint8_t *at)
{
	at[0] = LOG_SUPPORTED;
	at[1] = LOG_PROVISIONING;
	at[2] = LOG_EXCEPTIONS;
	return 3;
}

static size_t
put_exceptions(const struct scsi_task *task, uint16_t from, uint8_t *at)
{
	if (from > 0)
		return 0;
	at[2] = 0x03; /* one parameter: no informational exception, no temperature */
	at[3] = 4;
	at[6] = 0xff;
	return 8;
}

/* What is available and what is used, in sets; shared by all units of the pool. */
static size_t
put_provisioning(const struct scsi_task *task, uint16_t from, uint8_t *at)
{
	struct volume_space space;
	size_t bytes = 0;

	volume_space(task->nexus->volume, &space);
	for (uint16_t code = RESOURCE_AVAILABLE; code <= RESOURCE_USED; code++) {
		uint64_t left = space.available_bytes / MIB;

		if (code < from)
			continue;
		put_be16(at + bytes, code);
		at[bytes + 2] = 0x03;
		at[bytes + 3] = 8;
		put_be32(at + bytes + 4,
		    min_u64(code == RESOURCE_AVAILABLE ? left : space.usable_bytes / MIB - left,
			UINT32_MAX));
		at[bytes + 8] = 0x02; /* not dedicated to this unit */
		bytes += 12;
	}
	return bytes;
}

static const struct {
	uint8_t code;
	/* The parameters from this one on. */
	size_t (*put)(const struct scsi_task *task, uint16_t from, uint8_t *at);
} log_pages[] = {
	{ LOG_SUPPORTED, put_supported },
	{ LOG_PROVISIONING, put_provisioning },
	{ LOG_EXCEPTIONS, put_exceptions },
};

void
scsi_run_log_sense(struct scsi_task *task)
{
	const uint8_t *cdb = task->parsed.bytes;
	uint16_t from = (uint16_t)read_be(cdb + 5, 2);
	uint8_t code = cdb[2] & 0x3f;
	uint8_t answer[LOG_ANSWER_BYTES_MAX] = { code };
	size_t len_bytes;

	if (cdb[1] & 0x01)
		return scsi_refuse_cdb(task, 1, 0);
	if (cdb[3] != 0)
		return scsi_refuse_cdb(task, 3, 8);
	for (size_t i = 0; i < ARRAY_SIZE(log_pages); i++) {
		if (log_pages[i].code != code)
			continue;
		len_bytes = log_pages[i].put(task, from, answer + 4);
		if (len_bytes == 0) /* no such parameter, nor one behind it */
			return scsi_refuse_cdb(task, 5, 8);
		put_be16(answer + 2, len_bytes);
		return scsi_answer_bytes(task, answer, 4 + len_bytes);
	}
	scsi_refuse_cdb(task, 2, 5);
}
