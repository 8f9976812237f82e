/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an initiator may use: of a target, or (discovery) of all.
 *
 * A volume with exports is offered by them alone, and its snapshots not at all; one without any is
 * LUN 0 of its default target, for every initiator, unless the configuration says no.  Pure.
 */
#ifndef QUARRY_FRONTENDS_ISCSI_ACCESS_H
#define QUARRY_FRONTENDS_ISCSI_ACCESS_H

#include "core/target.h"
#include "frontends/iscsi/iscsi_names.h"

/* What an initiator must prove to know, and what it may ask the target to prove (else ""). */
struct iscsi_proof {
	char user[EXPORT_NAME_BYTES];
	char secret[EXPORT_SECRET_BYTES];
	char mutual_user[EXPORT_NAME_BYTES];
	char mutual_secret[EXPORT_SECRET_BYTES];
};

/* One unit that may be used. */
struct iscsi_grant {
	struct name name;
	uint16_t lun;
	bool readonly;
	bool proven;
	struct iscsi_proof *proof; /* NULL: none is wanted */
	char target[ISCSI_NAME_BYTES_MAX + 1];
};

/* Holds secrets. */
struct iscsi_offer {
	struct iscsi_grant *grants; /* sorted by target, then LUN; no LUN twice */
	size_t count;
	bool target_exists; /* though perhaps not for this initiator */
};

void iscsi_proof_free(struct iscsi_proof *proof);
void iscsi_offer_fini(struct iscsi_offer *offer);

/* Of @names (with its exports; snapshots, if they are targets, too), what @initiator is offered at
 * @target, or at all targets if that is NULL. */
void iscsi_offer_make(struct iscsi_offer *offer, const struct target_names *names,
    bool default_targets, const char *initiator, const char *target);

/* Marks what @proof proves; true: anything.  Constant time is for who checks an answer. */
bool iscsi_offer_prove(struct iscsi_offer *offer, const struct iscsi_proof *proof);
/* Keeps what needs no proof, or was proven. */
void iscsi_offer_restrict(struct iscsi_offer *offer);
/* How many need a proof, or do not. */
size_t iscsi_offer_count(const struct iscsi_offer *offer, bool needs_proof);
/* Whether all of @old is in @offer as it was. */
bool iscsi_offer_contains(const struct iscsi_offer *offer, const struct iscsi_offer *old);

#endif
