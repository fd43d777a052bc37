// Package bench is the measurements as a program: it starts whole networks, carries packages through the paper's workflow with
// the real client, and writes down what that took.
//
// What is common to all measurements stands first: Launch runs a network, each node a process of its own or all in this one;
// Carry and CarryOneLayer take a package through the workflow and hand over a Sample for each request; Distribution sums samples
// up; charts (SVG) and Report (one HTML file) show them. The rules hold for every measurement: requests are signed and answers checked,
// a warm-up is not counted, nothing sleeps inside measured time, and a request that fails is counted and shown, never dropped.
//
// The package measures; it prints nothing but progress. The subcommands of `tandem bench` read flags and print.
package bench
