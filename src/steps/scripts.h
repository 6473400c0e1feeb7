/* The shell scripts under steps/scripts/, which run on source machines (script_copy, script_home: on their copies); each tells its arguments and what it prints. */
#pragma once

extern const char script_agent[];
extern const char script_facts[];
extern const char script_park[];
extern const char script_unpark[];
extern const char script_decommission[];
extern const char script_copy[];
extern const char script_home[];
extern const char script_rescue[];
