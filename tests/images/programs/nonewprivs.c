/* Installed setuid root: says as whom it runs, which no_new_privs changes. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("Effective uid: %d\n", (int)geteuid());
	return 0;
}
