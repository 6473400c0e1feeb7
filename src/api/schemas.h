/* schemas: the JSON objects of the API, for the OpenAPI document: members as "name:type", separated by spaces; "!" after it: always there;
 * "?": may be null. Types: string integer number boolean object any time, another schema's name, or [TYPE]. */
#pragma once

struct schema {
    const char *name, *members;
};
extern const struct schema schema_table[]; /* ends with name NULL */
const struct schema *schema_find(const char *name);
