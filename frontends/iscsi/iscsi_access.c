/* SPDX-License-Identifier: Apache-2.0 */
#include "frontends/iscsi/iscsi_access.h"

#include <stdlib.h>

void
iscsi_proof_free(struct iscsi_proof *proof)
{
	if (proof)
		explicit_bzero(proof, sizeof(*proof));
	free(proof);
}

void
iscsi_offer_fini(struct iscsi_offer *offer)
{
	for (size_t i = 0; i < offer->count; i++)
		iscsi_proof_free(offer->grants[i].proof);
	free(offer->grants);
	*offer = (struct iscsi_offer){ 0 };
}

static struct iscsi_grant *
grant_add(struct iscsi_offer *offer, const struct name *name, const char *target)
{
	struct iscsi_grant *grant = &offer->grants[offer->count++];

	grant->name = *name;
	strcpy(grant->target, target);
	return grant;
}

static bool
has_exports(const struct target_names *names, const struct name *volume)
{
	for (size_t i = 0; i < names->export_count; i++)
		if (strcmp(names->exports[i].name.pool, volume->pool) == 0 &&
		    strcmp(names->exports[i].name.volume, volume->volume) == 0)
			return true;
	return false;
}

static void
offer_exports(struct iscsi_offer *offer, const struct target_names *names, const char *initiator,
    const char *wanted)
{
	for (size_t i = 0; i < names->export_count; i++) {
		const struct target_export *export = &names->exports[i];
		const struct export *item = &export->item;
		char target[ISCSI_NAME_BYTES_MAX + 1];
		struct iscsi_grant *grant;

		if (item->target[0])
			strcpy(target, item->target);
		else
			iscsi_target_name(&export->name, target);
		if (!target[0] || (wanted && strcmp(target, wanted) != 0))
			continue;
		offer->target_exists = true;
		if (!export_allows(item, initiator))
			continue;
		grant = grant_add(offer, &export->name, target);
		grant->lun = item->lun;
		if (!item->user[0])
			continue;
		grant->proof = xcalloc(1, sizeof(*grant->proof));
		strcpy(grant->proof->user, item->user);
		strcpy(grant->proof->secret, item->secret);
		strcpy(grant->proof->mutual_user, item->mutual_user);
		strcpy(grant->proof->mutual_secret, item->mutual_secret);
	}
}

static bool
name_equal(const struct name *a, const struct name *b)
{
	return strcmp(a->pool, b->pool) == 0 && strcmp(a->volume, b->volume) == 0 &&
	       strcmp(a->snapshot, b->snapshot) == 0;
}

/* Its default target, if @wanted is NULL or names it. */
static void
offer_default(struct iscsi_offer *offer, const struct target_names *names, const struct name *name,
    const struct name *wanted)
{
	char target[ISCSI_NAME_BYTES_MAX + 1];

	if (wanted && !name_equal(wanted, name))
		return;
	iscsi_target_name(name, target);
	if (!target[0] || has_exports(names, name))
		return;
	offer->target_exists = true;
	grant_add(offer, name, target);
}

static int
compare_grants(const void *left, const void *right)
{
	const struct iscsi_grant *a = left;
	const struct iscsi_grant *b = right;
	int order = strcmp(a->target, b->target);

	if (order == 0)
		order = (int)a->lun - (int)b->lun;
	if (order == 0)
		order = strcmp(a->name.pool, b->name.pool);
	return order ? order : strcmp(a->name.volume, b->name.volume);
}

/* Two pools may give one number away twice: the first pool's counts. */
static void
drop_doubles(struct iscsi_offer *offer)
{
	size_t kept = 0;

	for (size_t i = 0; i < offer->count; i++) {
		struct iscsi_grant *grant = &offer->grants[i];

		if (kept && strcmp(offer->grants[kept - 1].target, grant->target) == 0 &&
		    offer->grants[kept - 1].lun == grant->lun) {
			iscsi_proof_free(grant->proof);
			continue;
		}
		if (kept != i)
			offer->grants[kept] = *grant;
		kept++;
	}
	offer->count = kept;
}

void
iscsi_offer_make(struct iscsi_offer *offer, const struct target_names *names, bool default_targets,
    const char *initiator, const char *target)
{
	struct name name;

	*offer = (struct iscsi_offer){ 0 };
	offer->grants = xcalloc(names->export_count + names->count + 1, sizeof(*offer->grants));
	offer_exports(offer, names, initiator, target);
	if (target && (offer->target_exists || iscsi_target_parse(target, &name)))
		default_targets = false;
	for (size_t i = 0; default_targets && i < names->count; i++)
		offer_default(offer, names, &names->names[i], target ? &name : NULL);
	qsort(offer->grants, offer->count, sizeof(*offer->grants), compare_grants);
	drop_doubles(offer);
}

bool
iscsi_offer_prove(struct iscsi_offer *offer, const struct iscsi_proof *proof)
{
	bool any = false;

	for (size_t i = 0; i < offer->count; i++) {
		struct iscsi_grant *grant = &offer->grants[i];

		grant->proven |= grant->proof && strcmp(grant->proof->user, proof->user) == 0 &&
				 strcmp(grant->proof->secret, proof->secret) == 0;
		any |= grant->proven;
	}
	return any;
}

void
iscsi_offer_restrict(struct iscsi_offer *offer)
{
	size_t kept = 0;

	for (size_t i = 0; i < offer->count; i++) {
		struct iscsi_grant *grant = &offer->grants[i];

		if (grant->proof && !grant->proven) {
			iscsi_proof_free(grant->proof);
			continue;
		}
		if (kept != i)
			offer->grants[kept] = *grant;
		kept++;
	}
	offer->count = kept;
}

size_t
iscsi_offer_count(const struct iscsi_offer *offer, bool needs_proof)
{
	size_t count = 0;

	for (size_t i = 0; i < offer->count; i++)
		count += (offer->grants[i].proof != NULL) == needs_proof;
	return count;
}

bool
iscsi_offer_contains(const struct iscsi_offer *offer, const struct iscsi_offer *old)
{
	for (size_t i = 0; i < old->count; i++) {
		const struct iscsi_grant *was = &old->grants[i];
		bool found = false;

		for (size_t k = 0; k < offer->count && !found; k++) {
			const struct iscsi_grant *is = &offer->grants[k];

			found = name_equal(&is->name, &was->name) && is->lun == was->lun &&
				is->readonly == was->readonly &&
				strcmp(is->target, was->target) == 0;
		}
		if (!found)
			return false;
	}
	return true;
}
