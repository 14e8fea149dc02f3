/* Descriptions of machines as JSON, version 1 (docs/topology.md), and back.
 *
 * What is read is checked like any file from outside: types, ranges, lengths, printable ASCII, and
 * that cores, devices and NICs name NUMA nodes that exist. Members that this version does not know
 * are passed over. Twins of NICs are written for readers and found anew when read. */
#ifndef SY_TOPOLOGY_MACHINE_JSON_H
#define SY_TOPOLOGY_MACHINE_JSON_H

#include "base/json.h"
#include "topology/machine.h"

enum { SY_MACHINES_VERSION = 1 };

/* {"version": 1, "machines": [..]}; the caller calls json_decref. */
sy_status sy_machines_to_json(const sy_machines *machines, json_t **out);
/* `where` names the document in error texts. Release *out with sy_machines_free. */
sy_status sy_machines_from_json(const json_t *document, const char *where, sy_machines *out);

sy_status sy_machines_load(const char *path, sy_machines *out);

/* One machine, as it stands in the list; where as "FILE: machines[3]". */
json_t *sy_machine_to_json(const sy_machine *machine); /* NULL: no memory */
sy_status sy_machine_from_json(const json_t *object, const char *where, sy_machine *out);

#endif
